import contextlib
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
    """A plot without Axes makes a figure, which stays open."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the shared recordings; for tests marked `data`."""
    return DATA_DIR


@pytest.fixture(scope="session")
def dask_cluster(tmp_path_factory):
    """Start a Dask cluster of so many local workers, in a `with` statement: its client."""
    distributed = pytest.importorskip("distributed", reason="the extra 'sweep' is not installed")

    @contextlib.contextmanager
    def start(n_workers):
        with (
            distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                dashboard_address=None,
                local_directory=str(tmp_path_factory.mktemp("dask")),
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client

    return start


@pytest.fixture
def neuroshare(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout, stderr."""
    from neuroshare import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuroshare", *map(str, arguments)])
        monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call
