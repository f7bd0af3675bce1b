"""What the documentation shows is public, complete, and runs as typed."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import neuroshare as ns

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
HOWTOS = sorted((ROOT / "docs" / "howto").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *HOWTOS]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands():
    """Whole lines of shell blocks, and what stands in the text with arguments."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^(neuroshare \w.*)$|`(neuroshare \w+ [^`\n]+)`", text, re.MULTILINE)


def code(page):
    return page.read_text() if page.suffix == ".py" else "\n".join(blocks(page, "python"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Folder with the files that the how-to pages speak of."""
    folder = tmp_path_factory.mktemp("recordings")
    sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=12, signal=2.0)
    for name, session in sessions.items():
        ns.write_nwb(session, folder / f"{name}.nwb")
    return folder


@pytest.mark.parametrize("page", [*NOTEBOOKS, *PAGES], ids=lambda page: page.stem)
def test_shown_code_uses_public_names_only(page):
    tree = ast.parse(code(page))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("neuroshare")
        elif isinstance(node, ast.Import):
            ours = {(a.name, a.asname) for a in node.names if a.name.startswith("neuroshare")}
            assert ours <= {("neuroshare", "ns")}
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ns":
            assert node.attr in ns.__all__


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_howto_runs_as_typed(page, recordings, tmp_path, monkeypatch):
    for file in recordings.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    exec(compile(code(page), page.name, "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("command", ["".join(found) for found in commands()])
def test_shown_command_has_known_options(command):
    from neuroshare.cli import app

    _, name, *arguments = shlex.split(command, comments=True)
    shown = typer.main.get_command(app).commands[name]
    shown.make_context(name, arguments)  # raises on what it does not know


def test_quickstart_of_the_documentation_is_that_of_the_readme():
    shown = blocks(ROOT / "docs" / "index.md", "python")[0].splitlines()
    assert set(shown) <= set("".join(blocks(ROOT / "README.md", "python")).splitlines())


def test_every_public_name_is_in_the_api_reference():
    page = (ROOT / "docs" / "api.md").read_text()
    assert sorted(re.findall(r"^   (\w+)$", page, re.MULTILINE)) == sorted(ns.__all__)


def test_every_notebook_is_a_tutorial():
    page = (ROOT / "docs" / "tutorials.md").read_text()
    assert re.findall(r"^tutorials/(\w+)$", page, re.MULTILINE) == [p.stem for p in NOTEBOOKS]
