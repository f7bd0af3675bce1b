"""Fuzzing of every door: what comes in either works, with the right shapes, or is refused.

A refusal is a ValueError, TypeError, FileNotFoundError or NotFittedError of one sentence that
neuroshare itself raised. `NEUROSHARE_FUZZ=2000` asks for the whole of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MANY = int(os.environ.get("NEUROSHARE_FUZZ") or 0)
NUMBERS = {"nwb": MANY or 200, "arrays": MANY or 200, "toml": MANY or 50, "models": MANY or 200}
NUMBERS |= {"binning": MANY or 200, "files": MANY or 100, "analysis": MANY or 100}

# Inputs that once were answered wrongly, or took the process with them.
FOUND = json.loads((HERE / "corpus" / "found.json").read_text(encoding="utf-8"))


def through(door, first, last):
    """Outcomes by number, and what is known of inputs that took the process with them."""
    outcomes, lost = {}, {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    while first < last:
        command = [sys.executable, "-X", "faulthandler", HERE / "doors.py", door, first, last]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment
        )
        begun = None
        for line in map(json.loads, done.stdout.splitlines()):
            begun = line["number"]
            if "outcome" in line:
                outcomes[begun] = line
        if done.returncode == 0:
            break
        assert begun not in (None, *outcomes), done.stderr[-2000:]
        frames = [line for line in done.stderr.splitlines() if line.lstrip().startswith("File ")]
        lost[begun] = frames[0] if frames else done.stderr[-500:]
        first = begun + 1
    return outcomes, lost


def check(outcomes):
    wrong = [line for line in outcomes.values() if line["outcome"] == "wrong"]
    assert not wrong, "\n".join(map(str, wrong[:5]))


@pytest.mark.parametrize("door", NUMBERS)
def test_what_comes_in_works_or_is_refused_in_a_sentence(door, record_property):
    outcomes, lost = through(door, 0, NUMBERS[door])
    check(outcomes)
    assert len(outcomes) + len(lost) == NUMBERS[door]
    kinds = [line["outcome"] for line in outcomes.values()]
    # Were everything refused, nothing would be known of the shapes of what works.
    assert kinds.count("works") >= len(kinds) // 50
    # Little is refused at doors where odd rows are left out and told.
    least = {"binning": 30, "files": 20}.get(door, 5)
    assert kinds.count("refused") >= len(kinds) // least
    told = {kind: kinds.count(kind) for kind in set(kinds)} | {"lost": len(lost)}
    record_property(door, told)
    print(door, told, lost)
    assert not lost, lost


@pytest.mark.parametrize(
    ("door", "number"), [(door, number) for door, numbers in FOUND.items() for number in numbers]
)
def test_what_was_once_answered_wrongly_is_answered(door, number):
    outcomes, lost = through(door, number, number + 1)
    check(outcomes)
    assert not lost
