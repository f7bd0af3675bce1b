import numpy as np
import xarray as xr

import neuroshare as ns
from neuroshare.workflow.finished import trials_of_parts
from neuroshare.workflow.page import _data


def test_a_value_that_one_part_lacks_is_counted_there_as_none():
    rng = np.random.default_rng(0)
    odor = np.array(["A"] * 6 + ["B"] * 6)
    coords = {"trial_number": ("trial", np.arange(12)), "odor": ("trial", odor)}
    counts = {
        name: xr.DataArray(
            rng.poisson(1, (12, 3, 10)),
            dims=("trial", "unit", "time"),
            coords=coords,
            attrs={"bin_size": 0.01},
        )
        for name in ("mitt", "stella")
    }
    paired = ns.pair_subjects(counts, by="trial_number", width=0.1)
    parts = dict(zip(("train", "test"), paired.split(0.25, blocks=None), strict=True))
    # Trials 0 to 5 are of A: whatever is held out, let the test part lack it.
    only_b = {name: array.isel(trial=slice(6, 12)) for name, array in counts.items()}
    parts["test"] = ns.pair_subjects(only_b, by="trial_number", width=0.1)
    counted = trials_of_parts(parts, "odor")
    assert list(counted["train"].columns) == list(counted["test"].columns) == ["A", "B"]
    assert counted["test"].loc["mitt"].tolist() == [0, 6]
    scores = {
        "conditions": list(counted["train"].columns),
        "subjects": {
            "mitt": {
                "units": 3,
                "file": "mitt.nwb",
                **{part: table.loc["mitt"].to_dict() for part, table in counted.items()},
            }
        },
    }
    n = counted["train"].loc["mitt", "A"]
    assert _data(scores).rows[0] == ["mitt", "3", f"{n} + 0", *_data(scores).rows[0][3:]]
