"""What a package index, an installer and a reader of the repository are told agrees."""

import re
import tomllib
from pathlib import Path

import pytest

import neuroshare as ns

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Source"]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_extras_that_errors_name_exist():
    named = set()
    for path in SOURCES:
        for found in re.findall(r"neuroshare-latents\[([\w,]+)\]", path.read_text("utf-8")):
            named |= set(found.split(","))
    assert {"embed", "formats", "zarr"} <= named <= set(PROJECT["optional-dependencies"])
    shown = set(re.findall(r"^\| `(\w+)` \|", text("docs/install.md"), re.MULTILINE))
    assert named <= shown <= set(PROJECT["optional-dependencies"])


def test_a_first_run_needs_no_numba():
    names = {re.split(r"[^\w-]", line)[0] for line in PROJECT["dependencies"]}
    assert not names & {"umap-learn", "numba", "pynapple", "dask", "hdmf-zarr"}


def test_the_picture_of_the_readme_has_a_public_address():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text("README.md"))
    assert pictures
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
    for address in pictures:
        assert address.startswith(f"{raw}/main/")
        assert (ROOT / address.removeprefix(f"{raw}/main/")).is_file()


def test_links_of_the_readme_work_on_a_package_page():
    for address in re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", text("README.md")):
        assert address.startswith("https://"), address
        if address.startswith(f"{REPOSITORY}/"):
            inside = re.sub(r"^(blob|tree)/main/", "", address.removeprefix(f"{REPOSITORY}/"))
            assert (ROOT / inside).exists(), address


def test_the_version_is_the_same_everywhere():
    assert f"version: {ns.__version__}\n" in text("CITATION.cff")
    assert f"version = {{{ns.__version__}}}" in text("docs/cite.md")
    assert f"## [{ns.__version__}]" in text("CHANGELOG.md")
    assert f"version: {ns.__version__}" in text("conda/recipe.yaml").replace('"', "")


def test_the_recipe_asks_for_what_the_project_asks_for():
    recipe = text("conda/recipe.yaml")
    run = re.findall(
        r"^    - ([\w.-]+)", recipe.partition("  run:\n")[2].partition("\n\n")[0], re.M
    )
    other = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    names = {re.split(r"[^\w-]", line)[0] for line in PROJECT["dependencies"]}
    assert {other.get(name, name) for name in names} == set(run) - {"python"}


def test_public_files_name_no_private_host():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.*")]
    hosts = set()
    for page in pages:
        if "_build" not in page.parts:
            hosts |= set(re.findall(r"https?://([\w.-]+)", page.read_text(encoding="utf-8")))
    assert not [host for host in hosts if host.split(".")[-1].isdigit() or "." not in host]
    assert not hosts & {"localhost"}


@pytest.mark.parametrize("name", ["tests.yml", "docs.yml", "release.yml"])
def test_workflows_are_whole(name):
    workflow = text(f".github/workflows/{name}")
    assert "\t" not in workflow
    for key in ("name:", "on:", "jobs:", "runs-on:", "steps:", "permissions:"):
        assert key in workflow, key
    for action in re.findall(r"uses: (\S+)", workflow):
        assert re.fullmatch(r"[\w-]+/[\w./-]+@(v\d+|release/v1)", action), action


def test_tests_run_on_every_python_that_is_named():
    named = {c.rpartition(":: ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    tested = set(re.findall(r'"(3\.\d+)"', text(".github/workflows/tests.yml")))
    assert named <= tested
