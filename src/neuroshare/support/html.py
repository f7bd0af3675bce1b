"""Small tables of HTML, which notebooks show in place of a line of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A heading and a table; all that is filled in is escaped.

    Examples
    --------
    >>> html_table("mitt <9>", ["unit"], [[1]])
    '<div><b>mitt &lt;9&gt;</b><table><tr><th>unit</th></tr><tr><td>1</td></tr></table></div>'
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    top = f"<tr>{head}</tr>" if head else ""
    return f"<div><b>{escape(title)}</b><table>{top}{body}</table></div>"
