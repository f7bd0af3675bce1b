"""What got slower between two results: python -m benchmarks compare OLD NEW

Both are JSON files of one benchmark. Every number that stands in both as ``median`` beside ``min``
and ``max`` is compared; one is slower where its smallest value is above the largest of before, and
faster the other way round. Ratios that are within the spread of either are said to be equal.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPREAD = ("median", "min", "max")


def measured(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, float]]]:
    """Every median with its spread, and where it stands."""
    if isinstance(document, dict):
        if set(SPREAD) <= set(document):
            yield " / ".join(path), document
            return
        for name, part in document.items():
            yield from measured(part, (*path, str(name)))


def compared(old: Any, new: Any) -> list[tuple[str, float, float, str]]:
    """Where, old and new median, and what became of it; of what both documents hold."""
    before = dict(measured(old))
    rows = []
    for where, now in measured(new):
        if (then := before.get(where)) is None:
            continue
        verdict = "equal"
        if now["min"] > then["max"]:
            verdict = "slower"
        elif now["max"] < then["min"]:
            verdict = "faster"
        rows.append((where, then["median"], now["median"], verdict))
    return rows


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(argv)
    old, new = (json.loads(p.read_text(encoding="utf-8")) for p in (options.old, options.new))
    rows = compared(old, new)
    if not rows:
        raise SystemExit(
            f"{options.old} and {options.new} have no median with its spread (median, min, max) "
            "in common: give two results of one benchmark."
        )
    for name, document in (("old", old), ("new", new)):
        print(f"{name}: commit {document.get('commit')}, {document.get('versions')}")
    width = max(len(where) for where, *_ in rows)
    for where, then, now, verdict in rows:
        change = f"{now / then:6.2f} x" if then else "       -"
        print(f"{where:{width}s}  {then:10.4g}  {now:10.4g}  {change}  {verdict}")
    raise SystemExit(any(verdict == "slower" for *_, verdict in rows))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
