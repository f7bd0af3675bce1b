import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.tracking import compared


def spread(median, low, high):
    return {"median": median, "min": low, "max": high}


def test_slower_is_beyond_the_spread_of_both():
    old = {"a": {"cpu": spread(10, 9, 12), "wall": spread(1, 1, 1)}, "gone": spread(1, 1, 1)}
    new = {"a": {"cpu": spread(13, 12.5, 14), "wall": spread(1, 0.9, 1.1)}, "more": spread(1, 1, 1)}
    assert [(where, verdict) for where, *_, verdict in compared(old, new)] == [
        ("a / cpu", "slower"),
        ("a / wall", "equal"),
    ]
    assert [verdict for *_, verdict in compared(new, old)] == ["faster", "equal"]


@pytest.mark.parametrize(("factor", "code"), [(1, 0), (2, 1)])
def test_the_command_fails_where_something_got_slower(tmp_path, factor, code):
    files = []
    for name, by in (("old", 1), ("new", factor)):
        files.append(tmp_path / f"{name}.json")
        document = {"commit": name, "training": spread(2.0 * by, 1.9 * by, 2.1 * by)}
        files[-1].write_text(json.dumps(document))
    command = [sys.executable, "-m", "benchmarks", "compare", *map(str, files)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == code, done.stderr
    assert ("slower" in done.stdout) == bool(code)


def test_results_of_different_benchmarks_are_refused(tmp_path):
    for name in ("old", "new"):
        (tmp_path / f"{name}.json").write_text(json.dumps({name: spread(1, 1, 1)}))
    command = [sys.executable, "-m", "benchmarks", "compare"]
    command += [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 1
    assert "in common" in done.stderr
