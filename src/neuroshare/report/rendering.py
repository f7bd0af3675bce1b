"""Sections, tables and figures to one self-contained HTML page, and text from templates.

What a page says is up to who makes it: nothing here knows of runs or scores.
"""

import base64
import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure inside the page: its data URI and its description."""

    source: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; columns of `numbers` are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int] = ()
    dense: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, a table, what it means, and pictures; folded away where few ask for it."""

    title: str
    table: Table | None = None
    note: str = ""
    pictures: Sequence[Picture] = ()
    folded: bool = False


def picture(draw: Callable[[Axes], Axes], caption: str, projection: str | None = None) -> Picture:
    """One plot as a picture to put into the page."""
    code = base64.b64encode(drawn(draw, projection)).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{code}", caption)


def drawn(draw: Callable[[Axes], Axes], projection: str | None = None) -> bytes:
    """One plot as the content of an SVG file."""
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    canvas = FigureCanvasSVG(figure)
    draw(figure.add_subplot(projection=projection))
    _lay_out(figure)
    buffer = io.BytesIO()
    # A fixed salt and no date: the same run gives the same page.
    with mpl.rc_context({"svg.hashsalt": "neuroshare"}):
        canvas.print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Find the places of everything, for `savefig` would draw all of it twice to do so."""
    dpi = figure.dpi
    figure.set_dpi(72)  # that of an SVG
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    figure.set_layout_engine("none")
    figure.set_dpi(dpi)


def render(template: str, **parts: Any) -> str:
    """Fill a template of this folder; in HTML whatever is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuroshare.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**parts)


def number(value: float | None, digits: int = 2) -> str:
    """Write a number; a dash where there is none.

    Examples
    --------
    >>> number(-0.5), number(None)
    ('−0.50', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval(bounds: Sequence[float | None] | None, digits: int = 2, sign: str = "") -> str:
    """Write the ends of an interval in brackets; nothing where there is none."""
    if not bounds or bounds[0] is None or bounds[1] is None:
        return ""
    low, high = (f"{bound:{sign}.{digits}f}".replace("-", "−") for bound in bounds)
    # No line breaks inside the brackets.
    return f"[{low},\N{NO-BREAK SPACE}{high}]"


def bracketed(
    value: float | None,
    bounds: Sequence[float | None] | None = None,
    digits: int = 2,
    sign: str = "",
) -> str:
    """Write a number with its interval.

    Examples
    --------
    >>> bracketed(0.7, [0.6, 0.8]).split()
    ['0.70', '[0.60,', '0.80]']
    """
    if value is None:
        return number(None)
    text = f"{value:{sign}.{digits}f}".replace("-", "−")
    return f"{text} {interval(bounds, digits, sign)}".strip()


def between(numbers: Sequence[int]) -> str:
    """Write the range of some numbers.

    Examples
    --------
    >>> between([3, 5, 4]), between([3, 3])
    ('3 to 5', '3')
    """
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
