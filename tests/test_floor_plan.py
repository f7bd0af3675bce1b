"""Who may import whom: the rooms of the package, and one gate per heavy dependency."""

import ast
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "neuroshare"

# room -> the rooms it may import. A room is a folder of the package or a module beside them; what
# is listed above another floor imports from it only.
ROOMS = {
    "__init__": set(),
    "support": set(),
    "recordings": {"support"},
    "windows": {"support"},
    "vae": {"support"},
    "plots": {"support"},
    "models": {"support", "windows", "vae", "analysis"},
    "analysis": {"support", "windows"},
    "report": set(),
    "workflow": {
        "support",
        "recordings",
        "windows",
        "vae",
        "models",
        "analysis",
        "plots",
        "report",
    },
    "cli": {"recordings", "models", "workflow"},
    "__main__": {"cli"},
}

# heavy dependency -> the only files or folders through which it enters.
GATES = {
    "pynwb": {"recordings/nwb.py", "recordings/results.py"},
    "hdf5plugin": {"recordings/tree.py", "recordings/damage.py"},
    "hdmf": {"recordings/nwb.py", "recordings/results.py"},
    "zarr": {"recordings/tree.py"},
    "pynapple": {"recordings/from_to_pynapple.py"},
    "remfile": {"recordings/remote.py"},
    "requests": {"recordings/remote.py"},
    "h5py": {f"recordings/{name}.py" for name in ("tree", "tables", "nwb", "results", "damage")},
    "umap": {"analysis/embedding.py"},
    "matplotlib": {"plots", "report/rendering.py"},
    "torch": {"vae", "models"},
    "safetensors": {"vae", "models/saving.py"},
    "dask": {"support/parallel.py"},
    "distributed": {"support/parallel.py"},
    "cloudpickle": {"support/parallel.py"},
    "filelock": {"support/files.py"},
    "typer": {"cli.py"},
    "jinja2": {"report/rendering.py"},
}

CLOSED = {"vae": {"xarray", "pandas", "sklearn"}, "recordings": {"sklearn", "scipy"}}

FILES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py"))


def imported(file):
    """Absolute dotted names that a source file imports, wherever in the file it does."""
    package = ("neuroshare", *Path(file).parts[:-1])
    for node in ast.walk(ast.parse((SRC / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from neuroshare.models import shared as model` names a module by its alias.
            if module == "neuroshare":
                yield from (f"neuroshare.{alias.name}" for alias in node.names)
            else:
                yield module


def room_of(file):
    return Path(file).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES)
def test_rooms_import_downwards_only(file):
    room = room_of(file)
    assert room in ROOMS, f"{file}: give the new room a place in ROOMS"
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("neuroshare.")}
    assert ours - {room, "__version__"} <= ROOMS[room]
    assert "neuroshare" not in imported(file), "import from the module, not through the package"


@pytest.mark.parametrize("file", FILES)
def test_heavy_dependencies_enter_by_their_gate(file):
    for name in imported(file):
        top = name.partition(".")[0]
        gates = GATES.get(top, {file})
        assert any(file == gate or file.startswith(f"{gate}/") for gate in gates), name
        assert top not in CLOSED.get(room_of(file), ()), name


@pytest.mark.parametrize("file", FILES)
def test_only_declared_dependencies_are_imported(file):
    declared = {"numpy", "pandas", "xarray", "sklearn", "scipy", "tqdm", "joblib", "lazy_loader"}
    declared |= {"threadpoolctl"}
    tops = {name.partition(".")[0] for name in imported(file)}
    known = declared | set(GATES) | {"neuroshare"} | set(sys.stdlib_module_names)
    assert tops <= known, "benchmarks, notebooks and undeclared packages stay outside"


@pytest.mark.parametrize("file", FILES)
def test_a_module_has_at_most_600_lines(file):
    assert len((SRC / file).read_text(encoding="utf-8").splitlines()) <= 600
