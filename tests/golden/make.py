"""Write the golden model of a release: run once per release, from a checkout of its tag."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

import neuroshare as ns


def windows_of(counts):
    """Paired windows of plain nested lists: subject -> (trial, unit, time)."""
    arrays = {
        name: xr.DataArray(
            np.asarray(values, np.int16),
            dims=("trial", "unit", "time"),
            coords={"odor": ("trial", list("AB" * (len(values) // 2)))},
            attrs={"bin_size": 0.01},
        )
        for name, values in counts.items()
    }
    return ns.pair_subjects(arrays, by="odor", width=0.04, step=0.04, order="rank")


def main():
    folder = Path(__file__).parent / ns.__version__
    rng = np.random.default_rng(0)
    counts = {
        name: rng.poisson(0.4, (8, n_units, 8)).tolist()
        for name, n_units in {"mitt": 3, "stella": 2}.items()
    }
    windows = windows_of(counts)
    model = ns.SharedLatentModel(
        latent_dim=2, hidden=(3,), epochs=2, batch_size=8, progress=False, device="cpu"
    ).fit(windows)
    model.save(folder / "model")
    stored = {
        "counts": counts,
        "latents": model.transform(windows).values.tolist(),
        "imputed": model.impute(windows, target="mitt").values.tolist(),
    }
    text = json.dumps(stored, separators=(",", ":"))
    (folder / "windows.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
