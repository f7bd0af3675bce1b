import re

import pytest

from neuroshare.report.rendering import (
    Section,
    Table,
    bracketed,
    interval,
    number,
    picture,
    render,
)


def page(**changes):
    parts = {
        "title": "two subjects", "sections": [], "notes": [], "latents": [], "methods": [],
        "references": [], "by": "odor", "behavior": None, "data": Table((), ()), "left_out": [],
        "training": [],
        "settings": {}, "version": "0", "verdict": None, "summary": [], "view": "",
        "trained": "",
    }  # fmt: skip
    return render("report.html.j2", **parts | changes)


def test_a_section_shows_its_table_note_and_pictures():
    drawn = picture(lambda ax: ax.plot([0, 1], [1, 0])[0].axes, "A line")
    table = Table(("subject", "accuracy"), [["mitt", "0.70"]], numbers=(1,), dense=True)
    html = page(sections=[Section("My analysis", table, "What it means.", [drawn])])
    assert "<h2>My analysis</h2>" in html
    assert '<td>mitt</td><td class="n">0.70</td>' in html
    assert "What it means." in html
    assert re.search(r'src="data:image/svg\+xml;base64,\w+.*alt="A line"', html)


def test_what_is_filled_in_cannot_break_the_page():
    html = page(sections=[Section("<script>", Table(("<b>",), [["<i>"]]), "<u>")])
    assert not re.search("<script|<b>|<i>|<u>", html)


def test_a_part_that_the_template_lacks_is_an_error():
    with pytest.raises(Exception, match="'title' is undefined"):
        render("report.html.j2", sections=[])


def test_numbers_are_written_with_their_intervals():
    assert (number(None), number(0.5, 3)) == ("–", "0.500")
    assert bracketed(-0.51, (-0.6, 0.4), sign="+") == "−0.51 [−0.60,\N{NO-BREAK SPACE}+0.40]"
    assert bracketed(0.5, (None, 0.4)) == "0.50"
    assert interval(None) == ""
