"""The folder of a run: its file names, whose it is, and what is written and read there."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroshare.support.files import locked, replacing, write_whole
from neuroshare.workflow.settings import RunConfig

if TYPE_CHECKING:  # so that a folder is looked at in no time
    import xarray as xr

    from neuroshare.workflow.finished import FinishedRun


@dataclass(frozen=True)
class RunFolder:
    """Where one run is: a folder with scores holds a finished one, one with a checkpoint not.

    Examples
    --------
    >>> RunFolder(Path("demo")).settings.as_posix()
    'demo/run.toml'
    """

    path: Path

    @property
    def settings(self) -> Path:
        """The `RunConfig`."""
        return self.path / "run.toml"

    @property
    def checkpoint(self) -> Path:
        """State of a fit that has not ended, removed when everything is written."""
        return self.path / "checkpoint"

    @property
    def choice(self) -> Path:
        """What the model of an unfinished run has chosen; a fit keeps it beside its checkpoint."""
        return self.path / "checkpoint.choice.json"

    @property
    def model(self) -> Path:
        """The fitted model, a folder."""
        return self.path / "model"

    @property
    def latents(self) -> Path:
        """Latents of all windows."""
        return self.path / "latents.nc"

    @property
    def history(self) -> Path:
        """Loss and rate by epoch."""
        return self.path / "history.nc"

    @property
    def scores(self) -> Path:
        """All scores as numbers; written last."""
        return self.path / "scores.json"

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    def analyses(self) -> dict[str, Path]:
        """Name of each analysis and its file, whether it is there or not."""
        from neuroshare.workflow.analyses import ANALYSES

        return {a.name: self.path / f"{a.name}{a.suffix}" for a in ANALYSES}

    # ------------------------------------------------------------------ whose it is

    def require_free(self) -> None:
        """Refuse a path that is a file or holds a finished run.

        Raises
        ------
        ValueError
            Says what is there.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"{self.path}: expected a folder for the run, got a file. Choose another --out."
            )
        if self.scores.exists():
            raise ValueError(
                f"{self.path} holds a finished run. Choose another --out, or --overwrite to "
                "replace it."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder; made for it, it is removed again if nothing was written.

        Raises
        ------
        ValueError
            If another run holds it, or it is a file.
        """
        out = self.path
        if out.exists() and not out.is_dir():
            self.require_free()
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        try:
            with locked(out / ".lock", wait=False) as ours:
                if not ours:
                    raise ValueError(
                        f"{out} is being written by another run. Wait until it has ended, or "
                        "choose another --out."
                    )
                yield
        finally:
            if made and out.exists() and not any(out.iterdir()):
                out.rmdir()

    def claim(self, config: RunConfig) -> None:
        """Write the settings, unless the folder is that of another run.

        Raises
        ------
        ValueError
            If it holds a finished run, or an interrupted one with other settings.
        """
        self.require_free()
        text = config.to_toml()
        interrupted = self.settings.exists() and self.checkpoint.exists()
        if interrupted and self.settings.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{self.path} holds an interrupted run with other settings; expected those of "
                f"{self.settings}. Continue it with --config {self.settings}, or --overwrite to "
                "replace it."
            )
        with replacing(self.settings) as part:
            part.write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        for path in (
            self.settings, self.checkpoint, self.choice, self.model, self.latents, self.history,
            *self.analyses().values(), self.scores, self.report,
        ):  # fmt: skip
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ what is in it

    def write(self, run: FinishedRun, save_model: Callable[[Path], object]) -> None:
        """Write everything that a run found; its scores come last."""
        save_model(self.model)
        _write(self.latents, run.latents)
        _write(self.history, run.history)
        files = self.analyses()
        for name, data in run.found.items():
            _write(files[name], data)
        with replacing(self.scores) as part:
            text = json.dumps(run.scores, indent=2, allow_nan=False)
            part.write_text(text, encoding="utf-8")

    def read(self) -> FinishedRun:
        """Read what a run found, without torch.

        Raises
        ------
        FileNotFoundError
            If the folder does not hold a finished run.
        """
        import xarray as xr

        from neuroshare.workflow.finished import FinishedRun

        files = self.analyses()
        settings = read_toml(self.settings) if self.settings.is_file() else {}
        first = files["decoding" if settings.get("behavior") else "separation"]
        needed = (self.latents, first, self.history, self.scores, self.settings)
        absent = [path.name for path in needed if not path.is_file()]
        if absent:
            raise FileNotFoundError(
                f"{self.path}: expected a finished run, but {', '.join(absent)} "
                f"{'is' if len(absent) == 1 else 'are'} not there. Run `neuroshare fit` to the end."
            )
        return FinishedRun(
            RunConfig.from_settings(settings),
            json.loads(self.scores.read_text(encoding="utf-8")),
            xr.load_dataarray(self.latents, engine="h5netcdf"),
            _read(self.history),
            {name: _read(path) for name, path in files.items() if path.is_file()},
        )


def write_with_figure(
    out: Path, name: str, data: xr.Dataset, draw: Callable[..., Any]
) -> list[Path]:
    """Write ``name.nc`` and ``name.svg`` into a folder, which is made if it is not there."""
    from neuroshare.report.rendering import drawn

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.nc", out / f"{name}.svg"]
    _write(paths[0], data)
    write_whole(paths[1], drawn(lambda ax: draw(data, ax)))
    return paths


def read_toml(path: Path) -> dict[str, Any]:
    """Read plain settings.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of settings. Check --config.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    # Not TOML, not UTF-8, or brackets in brackets without end.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected TOML settings, got {error}.") from error


def _write(path: Path, data: xr.DataArray | xr.Dataset) -> None:
    if path.suffix == ".json":
        rows = data.to_dataframe().to_json(orient="records", double_precision=6)
        write_whole(path, json.dumps(json.loads(rows), indent=1).encode())
    else:
        # HDF5 takes the process with it when the disk is full: let it write to memory.
        # What is known of trials is the same in all their windows.
        encoding: dict[Hashable, Mapping[str, Any]] = {
            name: {"zlib": True, "complevel": 1}
            for name, values in data.coords.items()
            if "window" in values.dims and values.dtype.kind in "if"
        }
        write_whole(path, bytes(data.to_netcdf(engine="h5netcdf", encoding=encoding)))


def _read(path: Path) -> xr.Dataset:
    import pandas as pd
    import xarray as xr

    if path.suffix != ".json":
        return xr.load_dataset(path, engine="h5netcdf")
    table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    # A column of nothing but nulls would be one of objects.
    numbers = {name: float for name in table if name not in ("model", "score", "level")}
    return xr.Dataset.from_dataframe(table.astype(numbers))
