import os
import sys
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")

DATA_DIR = Path(
    os.environ.get("NEUROSHARE_DATA", Path(__file__).parents[1].with_name("shared") / "data")
)


def pytest_configure(config):
    # Under xdist every worker would start a thread per core. Set before torch is first imported.
    if os.environ.get("PYTEST_XDIST_WORKER") and "torch" not in sys.modules:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    if DATA_DIR.is_dir():
        return
    absent = pytest.mark.skip(reason="no shared recordings: set NEUROSHARE_DATA to their folder")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def _no_figures_left():
    """Plots draw into the current Axes, which must not be another test's."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the shared recordings; for tests marked `data`."""
    return DATA_DIR
