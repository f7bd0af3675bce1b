import subprocess
import sys

import pytest

import neuroshare as ns

HEAVY = {"torch", "pynwb", "pandas", "xarray", "matplotlib", "sklearn", "umap", "numpy"}


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_no_heavy_dependency():
    loaded = run("import sys, neuroshare; print(*{m.partition('.')[0] for m in sys.modules})")
    assert not HEAVY & set(loaded.split())


def test_import_loads_few_modules():
    """Python's own, `lazy_loader` and the package: 20 when this was written."""
    code = "import sys; n = len(sys.modules); import neuroshare; print(len(sys.modules) - n)"
    assert int(run(code)) < 40


def test_help_of_the_command_line_loads_no_torch():
    assert run("import sys, neuroshare.cli; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", sorted(ns.__all__))
def test_public_name_resolves(name):
    assert getattr(ns, name) is not None


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert version("neuroshare-latents") == ns.__version__
