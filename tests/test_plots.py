import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex

import neuroshare as ns
from neuroshare.plots import CONDITION_COLORS, MAX_POINTS, SUBJECT_COLORS

SUBJECTS = ["mitt", "stella", "barat"]
CONDITIONS = ["A", "B"]
TIMES = np.array([0.05, 0.06, 0.07])


@pytest.fixture(autouse=True)
def _no_figures_of_doctests():
    plt.close("all")


def make_latents(n_latents, n_trials=6):
    rng = np.random.default_rng(0)
    n_windows = n_trials * len(TIMES)
    odor = np.repeat([CONDITIONS[i % 2] for i in range(n_trials)], len(TIMES))
    return xr.DataArray(
        rng.normal(size=(len(SUBJECTS), n_windows, n_latents)),
        dims=("subject", "window", "latent"),
        coords={
            "subject": SUBJECTS,
            "odor": ("window", odor),
            "time": ("window", np.tile(TIMES, n_trials)),
        },
        attrs={"by": "odor"},
    )


@pytest.fixture
def scores():
    own = np.array([[0.5, 0.6, 0.7], [0.6, 0.7, 0.8]])
    cross = np.arange(18).reshape(2, 3, 3) / 20
    cross[:, range(3), range(3)] = np.nan
    return xr.Dataset(
        {
            "own": (("level", "subject"), own),
            "cross": (("level", "source", "target"), cross),
            "chance": 0.5,
        },
        coords={
            "level": ["window", "trial"],
            "subject": SUBJECTS,
            "source": SUBJECTS,
            "target": SUBJECTS,
        },
        attrs={"by": "odor"},
    )


def drawn_points(ax):
    return np.asarray(ax.collections[0].get_offsets())


def paths(ax):
    return [line.get_xydata() for line in ax.lines if line.get_label().startswith("mean of")]


def test_two_latents_are_drawn_as_they_are():
    latents = make_latents(2)
    ax = ns.plot_latents(latents)
    expected = latents.values.reshape(-1, 2)
    np.testing.assert_allclose(
        np.sort(drawn_points(ax), axis=0), np.sort(expected, axis=0), atol=1e-12
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent 1", "latent 2")


def test_embedded_latents_are_drawn_and_named_as_such():
    placed = make_latents(2).rename(latent="axis")
    ax = ns.plot_latents(placed)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1", "UMAP 2")


def test_latents_may_share_an_axes():
    latents = make_latents(2)
    ax = ns.plot_latents(latents)
    ns.plot_latents(latents, color="time", ax=ax)
    assert [text.get_text() for text in ax.texts] == CONDITIONS


def test_paths_are_condition_means_over_time():
    latents = make_latents(2)
    ax = ns.plot_latents(latents)
    expected = latents.mean("subject").groupby(["odor", "time"]).mean()
    expected = expected.transpose("odor", "time", "latent").values
    np.testing.assert_allclose(paths(ax), expected, atol=1e-12)


def test_more_latents_are_drawn_where_conditions_differ():
    latents = make_latents(5, n_trials=100)
    # Large variance that no condition explains, and a small one that conditions do.
    latents[..., 0] *= 6
    latents[..., 3] += np.where(latents["odor"] == "B", 3.0, -3.0)
    ax = ns.plot_latents(latents)
    one, two = (path[:, 0].mean() for path in paths(ax))
    assert abs(two - one) > 4
    assert "odor axis 1" in ax.get_xlabel()
    share = float(ax.get_xlabel().partition("(")[2].partition(" %")[0])
    # Drawn lengths are those of the latents: the axes are orthonormal.
    assert 50 < share <= 100
    assert drawn_points(ax)[:, 0].std() < 4


def test_axes_come_from_training_and_points_from_held_out_windows():
    latents = make_latents(4, n_trials=40)
    part = np.where(np.arange(latents.sizes["window"]) % 6 < 3, "train", "test")
    latents = latents.assign_coords(part=("window", part))
    latents[..., 1] += np.where((latents["odor"] == "B") & (latents["part"] == "train"), 50.0, 0.0)
    ax = ns.plot_latents(latents)
    held_out = latents.isel(window=part == "test")
    assert len(drawn_points(ax)) == held_out.sizes["subject"] * held_out.sizes["window"]
    # The first axis is the latent which differs in the training part only.
    spread = drawn_points(ax)[:, 0].std()
    np.testing.assert_allclose(spread, held_out[..., 1].values.std(), rtol=0.15)


def test_one_latent_is_drawn_against_time():
    ax = ns.plot_latents(make_latents(1))
    assert ax.get_xlabel() == "time (s)"
    np.testing.assert_allclose(np.unique(drawn_points(ax)[:, 0]), TIMES)


def test_windows_of_an_absent_subject_are_not_drawn():
    latents = make_latents(3)
    latents[0, :3] = np.nan
    ax = ns.plot_latents(latents)
    assert len(drawn_points(ax)) == latents.sizes["subject"] * latents.sizes["window"] - 3
    assert np.isfinite(paths(ax)).all()


@pytest.mark.parametrize(
    ("color", "palette", "names"),
    [("condition", CONDITION_COLORS, CONDITIONS), ("subject", SUBJECT_COLORS, SUBJECTS)],
)
def test_points_and_legend_share_their_colours(color, palette, names):
    ax = ns.plot_latents(make_latents(2), color=color)
    hues = list(palette[: len(names)])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert [to_hex(h.get_color()).upper() for h in ax.get_legend().legend_handles] == hues
    assert {to_hex(c).upper() for c in ax.collections[0].get_facecolors()} == set(hues)


def test_a_subject_keeps_its_colour_when_the_windows_change():
    latents = make_latents(2)
    latents[0] = np.nan
    ax = ns.plot_latents(latents, color="subject")
    drawn = {to_hex(c).upper() for c in ax.collections[0].get_facecolors()}
    assert drawn == set(SUBJECT_COLORS[1:3])


def test_colour_by_time_has_a_scale_in_seconds():
    ax = ns.plot_latents(make_latents(2), color="time")
    labels = [other.get_ylabel() for other in ax.figure.axes]
    assert "time (s)" in labels
    assert {text.get_text() for text in ax.texts} == set(CONDITIONS)


def test_many_points_are_thinned():
    ax = ns.plot_latents(make_latents(2, n_trials=3000))
    assert len(drawn_points(ax)) == MAX_POINTS


def test_latents_without_what_is_needed_are_refused():
    with pytest.raises(ValueError, match=r"dim 'latent'.*'time'"):
        ns.plot_latents(xr.DataArray(np.zeros((2, 3)), dims=("subject", "window")))
    with pytest.raises(ValueError, match="'color' parameter"):
        ns.plot_latents(make_latents(2), color="odour")


def test_training_draws_loss_validation_and_best_epoch():
    loss = np.array([3.0, 2.0, 1.5, 1.2])
    validation = np.array([np.nan, 2.5, np.nan, 2.6])
    history = xr.Dataset(
        {"loss": ("epoch", loss), "validation_loss": ("epoch", validation)},
        coords={"epoch": [1, 2, 3, 4]},
    )
    ax = ns.plot_training(history)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), loss)
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[2, 2.5], [4, 2.6]])
    assert list(ax.lines[2].get_xdata()) == [2, 2]


def test_training_draws_each_subject():
    values = np.arange(6.0).reshape(2, 3)
    history = xr.Dataset(
        {"loss": ("epoch", [1.0, 2.0]), "log_likelihood": (("epoch", "subject"), values)},
        coords={"epoch": [1, 2], "subject": SUBJECTS},
    )
    ax = ns.plot_training(history, "log_likelihood")
    assert [line.get_label() for line in ax.lines] == SUBJECTS
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], values.T)
    with pytest.raises(ValueError, match="'quantity' parameter"):
        ns.plot_training(history, "beta")


def test_separation_matrix_has_own_on_the_diagonal(scores):
    ax = ns.plot_separation(scores, "trial")
    drawn = np.asarray(ax.images[0].get_array())
    np.testing.assert_array_equal(np.diag(drawn), scores["own"].sel(level="trial"))
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(drawn[off], scores["cross"].sel(level="trial").values[off])
    assert [text.get_text() for text in ax.texts] == [f"{v:.2f}" for v in drawn.ravel()]
    assert [label.get_text() for label in ax.get_yticklabels()] == SUBJECTS
    assert "chance 0.50" in ax.get_title()
    assert len(ax.patches) == 3


def test_separation_marks_p_values(scores):
    scores["p_own"] = xr.full_like(scores["own"], 0.01)
    scores["p_cross"] = xr.full_like(scores["cross"], 0.02)
    ax = ns.plot_separation(scores, "window")
    assert ax.texts[0].get_text() == "0.50\n**"
    assert ax.texts[1].get_text() == "0.05\n*"
    assert "* p ≤ 0.05, ** p ≤ 0.01" in ax.get_title()
    scores["p_own"] = xr.full_like(scores["own"], 0.3)
    assert ns.plot_separation(scores, "window").texts[0].get_text() == "0.50\n–"


def test_separation_refuses_what_it_cannot_draw(scores):
    with pytest.raises(ValueError, match="'level' parameter"):
        ns.plot_separation(scores, "spike")
    with pytest.raises(ValueError, match="'cross'"):
        ns.plot_separation(scores.drop_vars("cross"))


def test_imputation_draws_sources_by_targets():
    values = np.array([[np.nan, 0.1], [0.2, np.nan], [0.3, -0.1]])
    scores = xr.Dataset(
        {"bits_per_spike": (("source", "target"), values)},
        coords={"source": ["mitt", "stella", "all others"], "target": ["mitt", "stella"]},
    )
    ax = ns.plot_imputation(scores)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), values)
    assert [text.get_text() for text in ax.texts] == ["", "0.10", "0.20", "", "0.30", "-0.10"]


def test_residual_shares_add_up_to_one():
    variance = np.random.default_rng(0).uniform(size=(3, 4))
    data = xr.Dataset(
        {"variance": (("part", "unit"), variance)},
        coords={"part": ["shared", "specific", "noise"]},
        attrs={"subject": "mitt"},
    )
    ax = ns.plot_residuals(data)
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, variance.sum(1) / variance.sum())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["mitt"]


@pytest.fixture
def table():
    rows = [
        ("mmvm", "own", "trial", 0.6, 0.5, 0.7, 0.25),
        ("mmvm", "cross", "trial", 0.5, 0.4, 0.6, 0.25),
        ("raw counts", "own", "trial", 0.65, 0.6, 0.7, 0.25),
        ("mmvm", "bits_per_spike, all others", "", 0.1, 0.05, np.nan, np.nan),
    ]
    names = ["model", "score", "level", "value", "low", "high", "chance"]
    return pd.DataFrame(rows, columns=names)


def test_comparison_draws_values_intervals_and_chance(table):
    ax = ns.plot_comparison(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["mmvm", "raw counts"]
    own, cross = ax.containers
    np.testing.assert_allclose(own.lines[0].get_xdata(), [0.6, 0.65])
    np.testing.assert_allclose(cross.lines[0].get_xdata(), [0.5])
    ends = own.lines[2][0].get_segments()
    np.testing.assert_allclose([[0.5, 0.7], [0.6, 0.7]], [end[:, 0] for end in ends])
    chance = [line for line in ax.lines if line.get_label() == "chance"]
    assert list(chance[0].get_xdata()) == [0.25, 0.25]
    assert ax.get_xlabel() == "balanced accuracy per trial"
    plt.figure()
    bits = ns.plot_comparison(table, ["bits_per_spike, all others"], level="")
    assert bits.get_xlabel() == "bits per spike"
    with pytest.raises(ValueError, match="expected rows of"):
        ns.plot_comparison(table, ["bits"])


def test_departure_draws_every_subject_over_time():
    values = np.arange(9.0).reshape(3, 3)
    data = xr.Dataset(
        {"divergence": (("subject", "time"), values), "within": (("subject", "time"), values / 2)},
        coords={"subject": SUBJECTS, "time": TIMES},
    )
    ax = ns.plot_departure(data)
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines[:6:2]], values)
    assert ax.get_xlabel() == "time (s)"
    assert "nats" in ax.get_ylabel()
    with pytest.raises(ValueError, match="'within'"):
        ns.plot_departure(data.drop_vars("within"))


# ---------------------------------------------------------------------------- trial columns


def with_columns():
    latents = make_latents(2)
    n = latents.sizes["window"]
    rng = np.random.default_rng(1)
    return latents.assign_coords(
        speed=(("subject", "window"), rng.uniform(size=(3, n))),
        reward=(("subject", "window"), rng.choice(["no", "yes"], (3, n))),
        block=("window", rng.integers(2, size=n)),
    )


def test_points_may_show_any_column_of_the_trials():
    fig, axes = plt.subplots(3)
    latents = with_columns()
    for color, ax in zip(("speed", "reward", "block"), axes, strict=True):
        ns.plot_latents(latents, color=color, ax=ax)
    assert [ax.get_ylabel() for ax in fig.axes[3:]] == ["speed"]
    shown = np.sort(axes[0].collections[0].get_array())
    np.testing.assert_allclose(shown, np.sort(latents["speed"].values.ravel()))
    for ax, names in ((axes[1], ["no", "yes"]), (axes[2], ["0", "1"])):
        assert [text.get_text() for text in ax.get_legend().get_texts()] == names


# ---------------------------------------------------------------------------- influence and power


def influence_of(n=3):
    rng = np.random.default_rng(0)
    loss = rng.normal(size=(n, n))
    np.fill_diagonal(loss, np.nan)
    mean = np.nanmean(loss, axis=1)
    return xr.Dataset(
        {
            "loss_target": (("left_out", "target"), loss),
            "loss": ("left_out", mean),
            "loss_interval": (("bound", "left_out"), [mean - 1, mean + 1]),
        },
        coords={"left_out": SUBJECTS, "target": SUBJECTS},
    )


def test_influence_shows_every_loss():
    found = influence_of()
    ax = ns.plot_influence(found)
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], found["loss"])
    assert [text.get_text() for text in ax.get_yticklabels()] == SUBJECTS
    points = {line.get_label(): line.get_xdata() for line in ax.lines if line.get_marker() == "o"}
    for name in SUBJECTS:
        np.testing.assert_array_equal(points[name], found["loss_target"].sel(target=name))
    ns.plot_influence(found.assign(loss_interval=found["loss_interval"] * np.nan))


def test_power_shows_every_size():
    sizes = {"n_subjects": [2, 3], "n_units": [10, 20], "n_trials": [5, 10, 20]}
    values = np.linspace(0, 1, 12).reshape(2, 2, 3)
    found = xr.Dataset(
        {"power": (tuple(sizes), values), "standard_error": (tuple(sizes), values / 10)},
        coords=sizes,
        attrs={"alpha": 0.05},
    )
    ax = ns.plot_power(found)
    drawn = [container.lines[0].get_ydata() for container in ax.containers]
    np.testing.assert_array_equal(drawn, values.reshape(4, 3))
    assert ax.get_legend().get_texts()[3].get_text() == "3 subjects, 20 units"
    with pytest.raises(ValueError, match="plot_power expected data with dim 'n_units'"):
        ns.plot_power(found.isel(n_units=0))
    with pytest.raises(TypeError, match="plot_influence expected its data as a Dataset"):
        ns.plot_influence(found["power"])


def test_two_plots_are_not_drawn_over_each_other(scores):
    first, second = ns.plot_separation(scores), ns.plot_separation(scores, "window")
    assert first.figure is not second.figure
    assert "per trial" in first.get_title()


def tetrahedron(n_trials=40):
    """Latents in which four conditions are as far from each other as can be."""
    latents = make_latents(4, n_trials=n_trials) * 0.3
    odor = np.repeat([list("ABCD")[i % 4] for i in range(n_trials)], len(TIMES))
    latents = latents.assign_coords(odor=("window", odor))
    corners = {"A": (1, 1, 1), "B": (1, -1, -1), "C": (-1, 1, -1), "D": (-1, -1, 1)}
    for d in range(3):
        latents[..., d] += 3 * np.array([corners[name][d] for name in odor])
    return latents


def test_a_third_axis_is_drawn_where_two_would_hide_a_condition():
    ax = ns.plot_latents(tetrahedron())
    assert ax.name == "3d"
    ends = np.array(
        [np.mean(line.get_data_3d(), axis=1) for line in ax.lines if "mean" in line.get_label()]
    )
    apart = np.linalg.norm(ends[:, None] - ends[None], axis=-1)[~np.eye(4, dtype=bool)]
    np.testing.assert_allclose(apart, apart.mean(), rtol=0.1)
    assert ns.plot_latents(tetrahedron(), axes=2).name == "rectilinear"
    figure = plt.figure()
    assert ns.plot_latents(tetrahedron(), ax=figure.add_subplot()).name == "rectilinear"
    assert ns.plot_latents(tetrahedron(), "time", figure.add_subplot(projection="3d")).name == "3d"
    flat = make_latents(4, n_trials=40)
    flat[..., 1] += np.where(flat["odor"] == "B", 9.0, 0.0)
    assert ns.plot_latents(flat).name == "rectilinear", "one axis tells two conditions"


def test_single_subjects_keep_axes_and_colours():
    latents = make_latents(3)
    ax = ns.plot_latents(latents, "subject", subject="barat")
    whole = ns.plot_latents(latents, "subject")
    assert len(drawn_points(ax)) == latents.sizes["window"]
    drawn = {tuple(point) for point in drawn_points(whole).round(9)}
    assert {tuple(point) for point in drawn_points(ax).round(9)} <= drawn
    assert {to_hex(c).upper() for c in ax.collections[0].get_facecolors()} == {SUBJECT_COLORS[2]}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["barat"]
    with pytest.raises(ValueError, match="'subject' parameter"):
        ns.plot_latents(latents, subject="rex")


def test_large_marks_are_means_of_subjects():
    latents = make_latents(2)
    ax = ns.plot_latents(latents)
    marks = np.array([np.asarray(one.get_offsets())[0] for one in ax.collections[1:]])
    means = latents.groupby("odor").mean().transpose("subject", "odor", "latent")
    np.testing.assert_allclose(marks, means.values.reshape(-1, 2), atol=1e-12)


def test_points_can_be_seen():
    few, many = ns.plot_latents(make_latents(2)), ns.plot_latents(make_latents(2, n_trials=3000))
    for ax in (few, many):
        cloud = ax.collections[0]
        assert cloud.get_sizes()[0] >= 5
        assert cloud.get_alpha() >= 0.25
    assert few.collections[0].get_alpha() > many.collections[0].get_alpha()


def test_a_coordinate_of_subjects_can_be_the_colour():
    latents = make_latents(2).assign_coords(animal=("subject", ["m1", "m1", "m2"]))
    ax = ns.plot_latents(latents, "animal")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["m1", "m2"]


def test_a_sweep_is_drawn_by_beta_and_objective():
    rows = [
        (o, b, s, 0.5 + 0.1 * b + 0.01 * s)
        for o in ("mmvm", "poe")
        for b in (0.1, 1)
        for s in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=["objective", "beta", "seed", "cross_trial"])
    ax = ns.plot_sweep(table)
    means = {line.get_label(): line.get_ydata() for line in ax.lines[1::2]}
    np.testing.assert_allclose(means["mmvm"], [0.515, 0.605])
    assert list(means) == ["mmvm", "poe"]
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match=r"must be one of \['cross_trial'\]"):
        ns.plot_sweep(table, "loss")
    with pytest.raises(ValueError, match="expected the table of sweep"):
        ns.plot_sweep(table.drop(columns="beta"))
