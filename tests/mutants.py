"""Mutants of the sharing rules: how many of them do the tests catch?

``python tests/mutants.py [NUMBER]`` changes one thing at a time in the experts and objectives (an
operator, a constant, a dropped term or call, swapped arguments), runs the tests that concern them
until one fails, and writes ``tests/mutants.json``. NUMBER mutants are drawn, or all are run.
"""

import ast
import copy
import json
import os
import random
import shutil
import sys
import tempfile
import time
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
TESTS = [str(HERE / "vae" / name) for name in ("test_experts.py", "test_objectives.py")]
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
    """What was changed to what, the file, and its whole changed source."""
    for file in FILES:
        tree = ast.parse((SRC / FOLDER / file).read_text(encoding="utf-8"))
        for parent, field, k, node in sites(tree):
            for other in changes(node):
                before = ast.unparse(node)
                _put(parent, field, k, other)
                text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(tree)))
                _put(parent, field, k, node)
                yield f"{file}:{node.lineno}: {before} -> {ast.unparse(other)}", file, text


def _put(parent, field, k, node):
    if k is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[k] = node


def caught(file, text):
    """Whether a test fails, in a process of its own that knows a changed package."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SRC, folder, dirs_exist_ok=True)
        (Path(folder) / FOLDER / file).write_text(text, encoding="utf-8")
        child = os.fork()
        if child == 0:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            sys.path.insert(0, folder)
            os.chdir(HERE.parent)
            # Those of the rules use the experts as well; those of the experts know no rule.
            tests = TESTS if file == "experts.py" else TESTS[1:]
            options = ["-x", "-q", "-p", "no:cacheprovider"]
            # What was imported before the fork is not rewritten, and need not be.
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            os._exit(int(pytest.main([*tests, *options]) != 0))
        began = time.monotonic()
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status != 0
            if time.monotonic() - began > SECONDS:  # an endless loop is caught as well
                os.kill(child, 9)
                os.waitpid(child, 0)
                return True
            time.sleep(0.05)


def main(number=None, seed=0):
    torch.set_num_threads(1)
    every = list(mutants())
    drawn = random.Random(seed).sample(every, min(number or len(every), len(every)))
    run = [mutant for mutant in drawn if mutant[0] not in EQUIVALENT]
    survived = []
    for file in FILES[:2]:
        text = (SRC / FOLDER / file).read_text(encoding="utf-8")
        assert not caught(file, text), "the tests fail without any change"
    for n, (name, file, text) in enumerate(run, 1):
        if not caught(file, text):
            survived.append(name)
        print(n, n - len(survived), survived[-1:] if name in survived else "", flush=True)
        result = {
            "mutants": len(every), "drawn": len(drawn), "equivalent": len(drawn) - len(run),
            "run": n, "caught": n - len(survived), "share": round(1 - len(survived) / n, 3),
            "survived": survived,
        }  # fmt: skip
        kept = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (HERE / "mutants.json").write_text(kept, encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
