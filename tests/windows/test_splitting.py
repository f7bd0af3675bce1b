"""Parts of a split have no spike in common, whatever the span and the order of labels."""

import json
import zlib

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshare.analysis.nulls import orders_of
from neuroshare.models.linear import LinearAlignment
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.session import Session
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects

ORDERS = {
    "interleaved": lambda rng: rng.permutation(np.repeat(list("ABC"), 24)),
    "clumped": lambda rng: np.repeat(rng.permutation(np.repeat(list("ABC"), 24)), 2),
    "runs": lambda rng: np.repeat(list("ABC" * 4), 6),
    "confounded": lambda rng: np.repeat(list("ABC"), 24),
}


def session(labels, onset, name="rat", seed=0, **columns):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    spikes = [np.sort(rng.uniform(-5, onset.max() + 10, 4 * len(labels))) for _ in range(3)]
    table = {"start_time": onset, "stop_time": onset + 0.5, "odor": labels, **columns}
    return Session(name, spikes, trials=pd.DataFrame(table))


def paired_of(kind, seed=0, pause=2.0, span=(0.0, 0.5), n=2, **columns):
    rng = np.random.default_rng(seed)
    counts = {}
    for k in range(n):
        labels = ORDERS[kind](rng)
        onset = np.cumsum(rng.uniform(0.6 * pause, 1.4 * pause, len(labels)))
        more = {name: column(rng, len(labels)) for name, column in columns.items()}
        counts[f"rat{k}"] = bin_spikes(
            session(labels, onset, f"rat{k}", seed, **more), span=span, bin_size=0.1
        )
    return pair_subjects(counts, "odor", 0.2, step=0.1)


def onsets(part, name):
    trials = part._of(name)
    return trials.onset


def split_or_refused(paired, seed, blocks):
    """Two parts; None where so long a span leaves no training trial that is far enough."""
    try:
        return paired.split(0.25, seed=seed, blocks=blocks)
    except ValueError as error:
        if "training trial" in str(error) or "blocks of which" in str(error):
            return None
        raise


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("blocks", ["auto", None, 30.0])
@given(
    seed=st.integers(0, 10**6),
    pause=st.floats(0.2, 3.0),
    begin=st.integers(-20, 10),
    n_bins=st.integers(2, 60),
)
@settings(max_examples=12, deadline=None)
def test_no_spike_is_in_both_parts(kind, blocks, seed, pause, begin, n_bins):
    rng = np.random.default_rng(seed)
    labels = ORDERS[kind](rng)
    onset = np.cumsum(rng.uniform(0.6 * pause, 1.4 * pause, len(labels)))
    recorded = session(labels, onset, seed=seed)
    span = (begin / 10, begin / 10 + n_bins / 10)
    paired = pair_subjects({"rat": bin_spikes(recorded, span=span, bin_size=0.1)}, "odor", 0.2, 0.1)
    parts = split_or_refused(paired, seed % 1000, blocks)
    if parts is None:
        return
    spikes = np.concatenate(recorded.spike_times)
    seen = []
    for part in parts:
        begins = onsets(part, "rat") + span[0]
        inside = (spikes[:, None] >= begins) & (spikes[:, None] < begins + n_bins / 10)
        seen.append(inside.any(axis=1))
        counted = part.activity("rat").sum()
        assert counted == inside.sum()
    assert not (seen[0] & seen[1]).any()


@pytest.mark.parametrize("kind", ORDERS)
def test_the_order_of_labels_decides(kind):
    paired = paired_of(kind)
    train, test = paired.split()
    stretched = kind != "interleaved"
    assert train.stretched == test.stretched == (paired.subjects if stretched else ())
    assert {name: order.kind for name, order in train.orders.items()} == dict.fromkeys(
        paired.subjects, kind
    )
    assert orders_of(test.attrs, "odor") == train.orders
    assert orders_of(test.attrs, "lap") == {}
    told = [s for s in train.report() if "held out" in s or "random split" in s]
    assert len(told) == 2
    words = {
        "interleaved": "random split (odor interleaved, p = ",
        "clumped": "odor comes in runs (",
        "runs": "odor comes in runs (11 changes in 72 trials",
        "confounded": "'A', 'B', 'C' of odor in one run only",
    }
    assert all(words[kind] in sentence for sentence in told), told
    for name in paired.subjects:
        if kind == "interleaved":
            again = paired.split(blocks=None)[1]
            assert test.trial_ids(name).tolist() == again.trial_ids(name).tolist()
        held = np.isin(np.sort(onsets(paired, name)), onsets(test, name))
        n_stretches = (np.diff(held.astype(int)) == 1).sum() + held[0]
        assert (n_stretches <= 6) == stretched
        assert set(train.codes(name)) == set(test.codes(name)) == {0, 1, 2}


def test_overlapping_stretches_are_held_out_together():
    paired = paired_of("interleaved", pause=0.4)
    train, test = paired.split()
    assert train.stretched == paired.subjects
    assert "so closely that their stretches overlap: 2 of 9 stretches" in train.report()[0]
    for name in paired.subjects:
        distance = abs(onsets(train, name)[:, None] - onsets(test, name))
        assert distance.min() >= 0.5


def test_without_blocks_neighbours_that_share_spikes_are_left_out_of_training():
    paired = paired_of("interleaved", pause=0.6)
    train, test = paired.split(blocks=None)
    plain = paired_of("interleaved", pause=5.0).split(blocks=None)[1]
    for name in paired.subjects:
        assert test.trial_ids(name).tolist() == plain.trial_ids(name).tolist()
        assert train.n_trials(name) + test.n_trials(name) < paired.n_trials(name)
    assert any("share spikes with held-out ones were left out" in s for s in train.report())


def test_a_random_split_of_runs_says_what_that_means():
    train, _ = paired_of("clumped").split(blocks=None)
    assert train.stretched == ()
    assert sum("blocks='auto' holds out whole stretches" in s for s in train.report()) == 2


def test_spans_over_many_trials_are_refused_at_random():
    paired = paired_of("interleaved", pause=0.1, span=(0.0, 5.0))
    with pytest.raises(ValueError, match=r"shares spikes with a held-out one.*blocks='auto'"):
        paired.split(blocks=None)


@pytest.mark.parametrize("blocks", ["yes", 0, -3.0, True, np.nan, [10.0], "60"])
def test_wrong_blocks_are_refused_in_a_sentence(blocks):
    with pytest.raises(ValueError, match=r"'blocks' parameter of split must be 'auto', None or a"):
        paired_of("interleaved").split(blocks=blocks)


def test_blocks_of_seconds_need_times_that_hold_them():
    paired = paired_of("interleaved")
    with pytest.raises(ValueError, match=r"'rat0': expected blocks of which the .* got 500 s"):
        paired.split(blocks=500)
    without = {n: paired._of(n).array.drop_vars("start_time") for n in paired.subjects}
    with pytest.raises(ValueError, match=r"'rat0': blocks in seconds need event times; give attrs"):
        pair_subjects(without, "odor", 0.2, 0.1).split(blocks=60)
    train, test = paired.split(blocks=20)
    assert "blocks of 20 s: " in train.report()[0]
    for name in paired.subjects:
        first = onsets(paired, name).min()
        held = set(((onsets(test, name) - first) // 20).tolist())
        assert not held & set(((onsets(train, name) - first) // 20).tolist())


@pytest.mark.parametrize("kind", ORDERS)
def test_the_training_part_is_split_by_the_same_rule(kind):
    train, _ = paired_of(kind, n=3).split()
    inner, validation = train.split(0.25, seed=1)
    assert inner.stretched == train.stretched
    for name in train.subjects:
        assert set(inner.codes(name)) == set(train.codes(name))
        assert len(validation.codes(name))
        assert not set(inner.trial_ids(name)) & set(validation.trial_ids(name))
        distance = abs(onsets(inner, name)[:, None] - onsets(validation, name))
        assert distance.min() >= 0.5


def test_subjects_keep_their_split_whoever_else_is_there():
    paired = paired_of("clumped", n=3)
    train, test = paired.split(seed=4)
    for name in paired.subjects:
        own_train, own_test = paired.select([name]).split(seed=4)
        assert own_train.trial_ids(name).tolist() == train.trial_ids(name).tolist()
        assert own_test.trial_ids(name).tolist() == test.trial_ids(name).tolist()


def test_exchanged_labels_keep_their_runs_in_both_parts():
    paired = paired_of("clumped")
    train, test = paired.split()
    moved = [part.repair(3, shuffle_conditions=True) for part in (train, test)]
    for name in paired.subjects:
        whole = {}
        for before, after in zip((train, test), moved, strict=True):
            whole |= dict(zip(after.trial_ids(name), after.codes(name), strict=True))
            assert before.trial_ids(name).tolist() == after.trial_ids(name).tolist()
        of_trial = dict(zip(paired.trial_ids(name), paired.codes(name), strict=True))
        n = len(of_trial)
        labels = np.array([of_trial[t] for t in range(n)])
        shifts = [
            k for k in range(n) if all(labels[(t - k) % n] == code for t, code in whole.items())
        ]
        assert shifts
        assert n / 10 <= shifts[0] <= 0.9 * n


# ---------------------------------------------------------------------------- one to one


def one_to_one(pause, labels=None, span=(0.0, 0.5), n=48):
    rng = np.random.default_rng(0)
    onset = np.cumsum(rng.uniform(0.6 * pause, 1.4 * pause, n))
    place = np.repeat(rng.permutation(np.repeat([0, 1, 2, 3], n // 16)), 4)
    counts = {
        name: bin_spikes(
            session(list("AB" * (n // 2)), onset, name, number=np.arange(n), place=place),
            span=span,
            bin_size=0.1,
        )
        for name in ("a", "b")
    }
    return pair_subjects(counts, "number", 0.2, 0.1)


def test_simultaneous_trials_are_split_by_one_clock():
    for paired, by in ((one_to_one(0.4), None), (one_to_one(2.0), "place")):
        train, test = paired.split(by=by)
        assert train.stretched == ("a", "b")
        assert train.codes("a").tolist() == train.codes("b").tolist()
        assert not set(train.codes("a")) & set(test.codes("a"))
        held = np.isin(np.arange(48), test.codes("a"))
        assert (np.diff(held.astype(int)) == 1).sum() + held[0] <= 6
        assert train.report()[0].startswith("all subjects: ")
        distance = abs(onsets(train, "a")[:, None] - onsets(test, "a"))
        assert distance.min() >= 0.5
        inner, _ = train.split()
        assert inner.stretched == ("a", "b")
    train, _ = one_to_one(2.0).split()
    assert train.stretched == ()


def test_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match=r"'rat0': no trial coordinate 'place'\. Found: \["):
        paired_of("interleaved").split(by="place")


# ---------------------------------------------------------------------------- known of trials


def test_coordinates_hold_onset_animal_and_all_columns_of_trials():
    paired = paired_of(
        "interleaved",
        speed=lambda rng, n: rng.uniform(size=n),
        lap=lambda rng, n: np.arange(n),
        part=lambda rng, n: rng.choice(["x", "yy"], n),
        rewarded=lambda rng, n: rng.random(n) < 0.5,
    )
    coords = xr.Dataset(coords=paired.coords()).coords
    assert coords["animal"].values.tolist() == ["rat0", "rat1"]
    names = {"onset", "start_time", "stop_time", "speed", "lap", "trial_part", "rewarded"}
    for name in names:
        assert coords[name].dims == ("subject", "window")
        assert coords[name].dtype.kind in "fiUb"
    for name in paired.subjects:
        array = paired._of(name).array
        at = coords.to_dataset().sel(subject=name)
        np.testing.assert_array_equal(at.onset, array.start_time.sel(trial=at.trial))
        np.testing.assert_array_equal(at.lap, array.lap.sel(trial=at.trial))
        np.testing.assert_array_equal(at.trial_part, array.trial_part.sel(trial=at.trial))
        assert names <= set(paired[name].coords)


def test_absent_subjects_have_missing_values_of_the_right_kind(tmp_path):
    paired = paired_of(
        "interleaved",
        lap=lambda rng, n: np.arange(n),
        who=lambda rng, n: rng.choice(["x", "yy"], n),
        rewarded=lambda rng, n: rng.random(n) < 0.5,
        odd=lambda rng, n: np.array([None, 1, "x"] * (n // 3), dtype=object),
    )
    counts = {name: paired._of(name).array for name in paired.subjects}
    counts["rat1"] = counts["rat1"].isel(trial=slice(30)).drop_vars("odd")
    paired = pair_subjects(counts, "odor", 0.2, 0.1, surplus="absent")
    coords = xr.Dataset(coords=paired.coords()).coords
    absent = ~paired.observed[1]
    assert absent.any()
    for name, missing in (("onset", np.nan), ("lap", np.nan), ("rewarded", np.nan), ("who", "")):
        values = coords[name].sel(subject="rat1").values
        np.testing.assert_array_equal(
            values == missing if missing == "" else np.isnan(values), absent
        )
    assert set(coords["odd"].sel(subject="rat1").values) == {""}
    train, test = paired.split()
    latents = LinearAlignment(latent_dim=2).fit(train).transform(test)
    latents.to_netcdf(tmp_path / "z.nc", engine="h5netcdf")
    back = xr.load_dataarray(tmp_path / "z.nc", engine="h5netcdf")
    for name in ("onset", "lap", "who", "odd", "rewarded", "animal"):
        np.testing.assert_array_equal(back[name].values, latents[name].values)
    assert json.loads(back.attrs["label_order"]).keys() == {"rat0", "rat1"}


def test_unknown_times_are_nan_and_names_of_windows_are_kept():
    sessions = simulate_sessions({"mitt": 5, "stella": 4}, n_trials=3)
    counts = {n: bin_spikes(s).assign_attrs(align="nothing") for n, s in sessions.items()}
    renamed = {n: a.rename(odor="animal") for n, a in counts.items()}
    coords = pair_subjects(renamed, "animal").coords()
    assert np.isnan(coords["onset"][1]).all()
    assert coords["animal"][0] == "window"


def test_sessions_of_one_animal_say_so():
    sessions = simulate_sessions({"mitt": 5, "stella": 4}, n_trials=3)
    counts = {f"{n}/day1": bin_spikes(s) for n, s in sessions.items()}
    counts["mitt/day2"] = counts["mitt/day1"]
    paired = pair_subjects(counts, "odor")
    assert paired.coords()["animal"] == ("subject", ["mitt", "stella", "mitt"])


# ---------------------------------------------------------------------------- spans


def test_spans_that_reach_into_the_next_trial_are_told():
    paired = paired_of("interleaved", pause=2.0, span=(0.0, 1.8))
    onset = onsets(paired, "rat0")
    far = 1.8 - np.diff(onset)
    told = [s for s in paired.report() if "reaches into the next trial" in s]
    assert len(told) == 2
    assert f"in {(far > 0).sum()} of 72 trials" in told[0]
    assert f"up to {far.max():.3g} s" in told[0]
    assert paired_of("interleaved", pause=2.0).report() == []
