"""Mutants of the sharing rules: how many of them do the tests catch?

``python tests/mutants.py [NUMBER]`` changes one thing at a time in the experts and objectives (an
operator, a constant, a dropped term or call, swapped arguments), runs the tests that reach it, the
fastest first, until one fails, and writes ``tests/mutants.json``. NUMBER mutants are drawn, or all
are run, in random order: what is written so far holds for all if it is stopped.
"""

import ast
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

# Before the forks: imported once, they cost the mutants nothing.
import hypothesis  # noqa: F401
import numpy  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch

HERE = Path(__file__).parent
SRC = HERE.parent / "src"
FOLDER = "neuroshare/vae"
RULES = sorted((SRC / FOLDER / "objectives").glob("[!_]*.py"))
FILES = ["experts.py", *(f"objectives/{path.name}" for path in RULES)]
TESTS = [
    str(HERE / "vae" / f"test_{name}.py")
    for name in ("experts", "objectives", "multimodal", "log_marginal")
]
SECONDS = 240

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Mod: ast.Mult,
    ast.RShift: ast.LShift, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}  # fmt: skip
DROPPED = {
    "square", "log", "sqrt", "rsqrt", "exp", "reciprocal", "detach", "clamp_min", "abs", "float",
}  # fmt: skip
EQUIVALENT = json.loads((HERE / "mutants_equivalent.json").read_text(encoding="utf-8"))
"""Mutants that compute the same, and why."""


def changes(node):
    """Nodes that may stand in the place of one."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        yield node.left
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OPERATORS[type(node.op)](), node.values)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        op = OPERATORS[type(node.ops[0])]()
        yield ast.Compare(node.left, [op, *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        value = node.value
        yield ast.Constant(not value if isinstance(value, bool) else value + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in DROPPED and not isinstance(node.func.value, ast.Name | ast.Constant):
            yield node.func.value
        if node.func.attr == "where" and len(node.args) == 3:
            condition, one, other = node.args
            yield ast.Call(node.func, [condition, other, one], node.keywords)


def sites(tree):
    """Where a tree can be changed: fields of nodes, outside messages and descriptions."""
    silent = set()
    for node in ast.walk(tree):
        skipped = []
        if isinstance(node, ast.Raise | ast.AnnAssign):
            skipped = [node.exc] if isinstance(node, ast.Raise) else [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            annotations = [a.annotation for a in (*node.args.args, *node.args.kwonlyargs)]
            skipped = [node.returns, *annotations]
        silent |= {id(n) for part in skipped if part is not None for n in ast.walk(part)}
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            for k, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.expr) and id(node) not in silent:
                    yield parent, field, k if isinstance(value, list) else None, node


def mutants():
    """What was changed to what, the file, its lines, and its whole changed source."""
    for file in FILES:
        tree = ast.parse((SRC / FOLDER / file).read_text(encoding="utf-8"))
        for parent, field, k, node in sites(tree):
            for other in changes(node):
                before = ast.unparse(node)
                _put(parent, field, k, other)
                text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(tree)))
                _put(parent, field, k, node)
                lines = range(node.lineno, node.end_lineno + 1)
                at = f"{file}:{node.lineno}:{node.col_offset}"
                yield f"{at}: {before} -> {ast.unparse(other)}", file, lines, text


def _put(parent, field, k, node):
    if k is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[k] = node


class Reach:
    """Plugin that notes which lines of the rules each test reaches, and how long it takes."""

    def __init__(self, folder):
        self.files = {str(folder / FOLDER / file): file for file in FILES}
        self.tests = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        lines, began = defaultdict(set), time.process_time()

        def trace(frame, event, argument):
            file = self.files.get(frame.f_code.co_filename)
            if file is None:
                return None
            lines[file].add(frame.f_lineno)
            return trace

        sys.settrace(trace)
        yield
        sys.settrace(None)
        reached = {file: sorted(numbers) for file, numbers in lines.items()}
        self.tests[item.nodeid] = {"seconds": time.process_time() - began, "lines": reached}


class Only:
    """Plugin that runs some tests, in a given order."""

    def __init__(self, tests):
        self.place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place),
            key=lambda item: self.place[item.nodeid],
        )


def fails(folder, plugin, kept=None):
    """Whether a test fails, in a process of its own that knows the package in a folder."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.path.insert(0, str(folder))
        os.chdir(HERE.parent)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # an endless loop is caught as well
        options = ["-x", "-q", "-p", "no:cacheprovider"]
        # What was imported before the fork is not rewritten, and need not be.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = pytest.main([*TESTS, *options], plugins=[plugin])
        if kept is not None:
            kept.write_text(json.dumps(plugin.tests), encoding="utf-8")
        os._exit(int(code))
    return os.waitpid(child, 0)[1] != 0


def reach():
    """Seconds and lines of every test, without any change."""
    with tempfile.TemporaryDirectory() as folder:
        folder, kept = Path(folder), Path(folder) / "reach.json"
        shutil.copytree(SRC, folder, dirs_exist_ok=True)
        assert not fails(folder, Reach(folder), kept), "the tests fail without any change"
        return json.loads(kept.read_text(encoding="utf-8"))


def caught(file, lines, text, tests):
    """Whether a test that reaches the lines fails with the changed text; all, if none does."""
    reached = [t for t, about in tests.items() if {*lines} & {*about["lines"].get(file, ())}]
    order = sorted(reached or tests, key=lambda test: tests[test]["seconds"])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SRC, folder, dirs_exist_ok=True)
        (Path(folder) / FOLDER / file).write_text(text, encoding="utf-8")
        return fails(folder, Only(order))


def main(number=None, seed=0):
    torch.set_num_threads(1)
    every = list(mutants())
    stale = set(EQUIVALENT) - {name for name, *_ in every}
    assert not stale, f"mutants_equivalent.json names what is no mutant: {sorted(stale)}"
    tests = reach()
    survived, run, equivalent = [], 0, 0
    for name, *mutant in random.Random(seed).sample(every, number or len(every)):
        if name in EQUIVALENT:
            equivalent += 1
            continue
        run += 1
        if not caught(*mutant, tests):
            survived.append(name)
        print(run, run - len(survived), survived[-1:] if name in survived else "", flush=True)
        result = {
            "mutants": len(every), "equivalent": equivalent, "run": run,
            "caught": run - len(survived), "share": round(1 - len(survived) / run, 3),
            "survived": survived,
        }  # fmt: skip
        kept = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (HERE / "mutants.json").write_text(kept, encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
