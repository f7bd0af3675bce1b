"""Who may import whom: the layers of the package, and one gate per heavy dependency."""

import ast
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "neuroshare"

# layer -> the other layers it may import; a layer is a top-level module or subpackage.
LAYERS = {
    "__init__": set(),
    "settings": set(),
    "writing": set(),
    "recordings": {"settings", "writing"},
    "executor": set(),
    "vae": {"writing"},
    "analysis": {"settings"},
    "plots": set(),
    "linear": {"recordings"},
    "start": {"recordings", "linear"},
    "resident": {"recordings"},
    "stored": {"writing", "settings", "vae"},
    "model": {"settings", "recordings", "vae", "linear", "start", "resident", "stored"},
    "compare": {"executor", "linear", "analysis"},
    "leakage": {"executor", "recordings", "linear", "analysis"},
    "report": {"plots", "writing"},
    "run": {
        "writing",
        "settings",
        "recordings",
        "model",
        "linear",
        "analysis",
        "compare",
        "report",
    },
    "sweep": {"settings", "executor", "writing", "recordings", "model", "analysis", "run"},
    "cli": {"recordings", "model", "linear", "analysis", "run", "report", "sweep"},
}

# heavy dependency -> the only files or folders through which it enters.
GATES = {
    "pynwb": {"recordings/nwb.py", "recordings/results.py"},
    "hdf5plugin": {"recordings/nwb.py", "recordings/intact.py"},
    "hdmf": {"recordings/nwb.py", "recordings/results.py"},
    "hdmf_zarr": {"recordings/nwb.py"},
    "pynapple": {"recordings/tsgroups.py"},
    "remfile": {"recordings/remote.py"},
    "requests": {"recordings/remote.py"},
    "h5py": {"recordings/nwb.py", "recordings/results.py", "recordings/intact.py"},
    "umap": {"analysis/embedding.py"},
    "matplotlib": {"plots.py", "report.py"},
    "torch": {"vae", "resident.py", "stored.py", "model.py"},
    "safetensors": {"vae", "stored.py"},
    "dask": {"executor.py"},
    "distributed": {"executor.py"},
    "typer": {"cli.py"},
    "jinja2": {"report.py"},
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
            # `from neuroshare import model` names a module by its alias.
            if module == "neuroshare":
                yield from (f"neuroshare.{alias.name}" for alias in node.names)
            else:
                yield module


def layer_of(file):
    return Path(file).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES)
def test_layers_import_downwards_only(file):
    layer = layer_of(file)
    assert layer in LAYERS, f"{file}: give the new layer a place in LAYERS"
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("neuroshare.")}
    assert ours - {layer, "__version__"} <= LAYERS[layer]
    assert "neuroshare" not in imported(file), "import from the module, not through the package"


@pytest.mark.parametrize("file", FILES)
def test_heavy_dependencies_enter_by_their_gate(file):
    for name in imported(file):
        top = name.partition(".")[0]
        gates = GATES.get(top, {file})
        assert any(file == gate or file.startswith(f"{gate}/") for gate in gates), name
        assert top not in CLOSED.get(layer_of(file), ()), name


@pytest.mark.parametrize("file", FILES)
def test_only_declared_dependencies_are_imported(file):
    declared = {"numpy", "pandas", "xarray", "sklearn", "scipy", "tqdm", "joblib", "lazy_loader"}
    tops = {name.partition(".")[0] for name in imported(file)}
    known = declared | set(GATES) | {"neuroshare"} | set(sys.stdlib_module_names)
    assert tops <= known, "benchmarks, notebooks and undeclared packages stay outside"
