"""The moving view: what it holds, and that a browser shows it."""

import base64
import json
import os
import re
import shutil

import numpy as np
import pytest
import xarray as xr

from neuroshare.plots import project
from neuroshare.workflow.interactive import MOST_POINTS, view_of

TIMES = np.array([0.05, 0.06, 0.07])


def make_latents(n_latents=3, n_trials=24):
    rng = np.random.default_rng(0)
    n = n_trials * len(TIMES)
    trial = np.stack([np.repeat(rng.permutation(n_trials), len(TIMES)) for _ in range(2)])
    return xr.DataArray(
        rng.normal(size=(2, n, n_latents)),
        dims=("subject", "window", "latent"),
        coords={
            "subject": ["mitt", "stella"],
            "animal": ("subject", ["mitt", "stella"]),
            "odor": ("window", np.repeat(list("AB" * (n_trials // 2)), len(TIMES))),
            "time": ("window", np.tile(TIMES, n_trials)),
            "part": ("window", ["train"] * (n // 2) + ["test"] * (n - n // 2)),
            "trial": (("subject", "window"), trial),
            "onset": (("subject", "window"), trial * 3.5),
            "correct": (("subject", "window"), trial % 3 > 0),
        },
        attrs={"by": "odor"},
    )


def unpacked(view):
    data = json.loads(view)
    for name, kind in (("place", "<i2"), ("trial", "<u2"), ("time", "u1")):
        data[name] = np.frombuffer(base64.b64decode(data[name]), kind)
    data["place"] = data["place"].reshape(-1, 3)
    return data


def test_the_view_holds_the_held_out_windows_where_they_are():
    latents = make_latents()
    latents[1, -3:] = np.nan
    data = unpacked(view_of(latents))
    assert len(data["time"]) == 2 * 36 - 3
    points = project(latents, "odor")[0][:, 36:].reshape(-1, 3)
    points = points[np.isfinite(points).all(-1)]
    inside = (np.abs(data["place"]) < 32767).all(-1)
    assert inside.mean() > 0.9
    ratio = np.diff(points[inside], axis=0) / np.diff(data["place"][inside].astype(float), axis=0)
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.05)
    trials = data["trials"]
    subject = np.asarray(trials["subject"])[data["trial"]]
    np.testing.assert_array_equal(subject, [0] * 36 + [1] * 33)
    ids = np.asarray(trials["id"])[data["trial"]]
    np.testing.assert_array_equal(ids[:36], latents["trial"].values[0, 36:])
    odor = np.asarray(data["conditions"])[np.asarray(trials["condition"])[data["trial"]]]
    np.testing.assert_array_equal(odor[:36], latents["odor"].values[36:])
    np.testing.assert_array_equal(np.asarray(data["times"])[data["time"]][:36], np.tile(TIMES, 12))


def test_the_view_knows_the_columns_of_trials():
    columns = unpacked(view_of(make_latents()))["trials"]["columns"]
    assert list(columns) == ["onset", "correct"]
    assert columns["correct"]["values"] == ["False", "True"]
    assert max(columns["onset"]["numbers"]) <= 23 * 3.5


def test_many_windows_are_thinned_by_whole_trials_and_stay_small():
    latents = make_latents(n_trials=9000)
    view = view_of(latents)
    data = unpacked(view)
    assert 0.95 * MOST_POINTS <= len(data["time"]) <= MOST_POINTS
    assert (np.bincount(data["trial"]) == len(TIMES)).all()
    assert len(view) < 300_000 - 40_000  # of which its code takes less than 40 kB


@pytest.mark.parametrize("n_latents", [1, 2])
def test_few_latents_lie_in_a_plane(n_latents):
    data = unpacked(view_of(make_latents(n_latents)))
    assert data["flat"]
    assert (data["place"][:, 2] == 0).all()
    assert data["axes"][-1] == f"latent {n_latents}"


def test_names_in_the_data_cannot_end_the_script():
    latents = make_latents().assign_coords(subject=["</script><b>", "stella"])
    view = view_of(latents)
    assert "<" not in view
    assert json.loads(view)["subjects"][0] == "</script><b>"


def test_latents_that_know_no_trial_are_shown_too():
    latents = make_latents().drop_vars(["trial", "onset", "correct"])
    data = unpacked(view_of(latents))
    assert (np.bincount(data["trial"]) == len(TIMES)).all()


def running_latents(n=9000, n_latents=6):
    """Latents of windows that were paired by behavior, each a trial of its own."""
    rng = np.random.default_rng(0)
    dims = ("subject", "window")
    position, heading = rng.uniform(0, 2, (2, n)), rng.uniform(-180, 180, (2, n))
    speed = rng.uniform(0, 1, (2, n))
    speed[:, ::7] = np.nan
    z = np.stack([np.cos(k * position + heading / 90) for k in range(n_latents)], axis=-1)
    about = {"position": {"behavior": "position", "unit": "m"}}
    about["heading"] = {"behavior": "heading", "unit": "degrees", "period": 360.0}
    about["speed"] = {"behavior": "speed", "unit": "m/s"}
    return xr.DataArray(
        z,
        dims=(*dims, "latent"),
        coords={
            "subject": ["mitt", "stella"],
            "time": ("window", np.full(n, 0.1)),
            "part": ("window", np.where(np.arange(n) % 4, "train", "test")),
            "trial": (dims, np.tile(np.arange(n), (2, 1))),
            "onset": (dims, np.tile(np.arange(n) * 0.2, (2, 1))),
            "epoch": (dims, np.tile(np.arange(n) // 100, (2, 1))),
            "direction": (dims, np.where(position > 1, "out", "back")),
            "speed": (dims, speed),
            "heading": (dims, heading),
            "position": (dims, position),
            "position_bin": (dims, (position * 10).astype(int) / 10),
        },
        attrs={
            "by": "position_bin",
            "behavior": json.dumps(about),
            "paired_by": json.dumps(["position"]),
        },
    )


def numbers_of(column):
    codes = np.frombuffer(base64.b64decode(column["packed"]), "<u2")
    numbers = column["low"] + (column["high"] - column["low"]) * codes / 65534
    return np.where(codes == 65535, np.nan, numbers)


def test_windows_paired_by_behavior_are_coloured_by_it():
    latents = running_latents()
    view = view_of(latents)
    assert len(view) < 300_000 - 40_000
    data = unpacked(view)
    assert data["first"] == "position"
    assert list(data["trials"]["columns"])[:3] == ["position", "speed", "heading"]
    assert data["conditions"] == ["windows"]
    assert not data["flat"]
    columns, ids = data["trials"]["columns"], np.asarray(data["trials"]["id"])
    of = np.asarray(data["trials"]["subject"])
    for name, within in (("position", 1e-4), ("speed", 1e-4), ("heading", 1e-2)):
        seen = latents[name].values[of, ids]
        np.testing.assert_allclose(numbers_of(columns[name]), seen, atol=within)
    assert columns["heading"]["turns"]
    assert (columns["heading"]["low"], columns["heading"]["high"]) == (-180, 180)
    assert not columns["position"]["turns"]
    assert columns["position"]["unit"] == "m"
    assert columns["direction"]["values"] == ["back", "out"]
    held_out = np.flatnonzero(latents["part"] == "test")
    assert np.isin(ids, held_out).all()


# ---------------------------------------------------------------------- in a browser

BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    import neuroshare as ns
    from neuroshare.workflow.run import run_fit
    from neuroshare.workflow.settings import RunConfig

    folder = tmp_path_factory.mktemp("view")
    files = []
    for name, session in ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=8).items():
        files.append(str(ns.write_nwb(session, folder / f"{name}.nwb")))
    config = RunConfig(
        tuple(files), "odor", "start_time", (0.0, 0.4), min_trials=4, quick=True, permutations=19,
        bootstraps=0, model={"epochs": 0, "latent_dim": 4},
    )  # fmt: skip
    return run_fit(config, folder / "run", progress=False).folder.report


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if BROWSER is None:
        pytest.skip("needs a Chromium: set CHROMIUM to its executable")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--no-zygote", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture(params=[(1400, "light"), (800, "dark"), (390, "light")], ids=str)
def page(browser, page_file, request):
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    opened = context.new_page()
    wrong = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(page_file.as_uri())
    opened.locator("#view-canvas").scroll_into_view_if_needed()
    opened.wait_for_timeout(100)
    yield opened
    assert wrong == []
    context.close()


def of_view(page, expression):
    return page.evaluate(f"(() => {{ const v = neuroshareView; return {expression}; }})()")


def pixels(page):
    return page.evaluate("document.getElementById('view-canvas').toDataURL()")


@pytest.mark.slow
def test_the_view_turns_filters_colours_and_tells(page):
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    first, everything = pixels(page), of_view(page, "v.shown()")
    assert everything == of_view(page, "v.n") > 100
    box = page.locator("#view-canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 20, steps=4)
    page.mouse.up()
    page.wait_for_timeout(60)
    assert of_view(page, "v.state.yaw") == pytest.approx(0.5 + 90 / 150, abs=0.02)
    assert pixels(page) != first, "it turned"
    px, py = of_view(page, "v.at(5)")
    page.mouse.move(box["x"] + px, box["y"] + py)
    page.wait_for_timeout(60)
    told = page.locator("#view-tip").inner_text()
    assert "trial" in told
    assert " s" in told
    page.locator("#view-subjects input").first.uncheck()
    assert 0 < of_view(page, "v.shown()") < everything
    before = pixels(page)
    page.select_option("#view-color", "position")
    page.wait_for_timeout(60)
    assert pixels(page) != before, "it changed colour"
    page.locator("#view-reset").click()
    assert of_view(page, "v.shown()") == everything


@pytest.mark.slow
def test_the_view_obeys_the_keyboard(page):
    canvas = page.locator("#view-canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    assert of_view(page, "[v.state.yaw, v.state.zoom]") == pytest.approx([0.6, 1.25])
    page.keyboard.press(".")
    assert page.locator("#view-said").inner_text().startswith(("mitt", "stella"))
    page.keyboard.press(" ")
    page.wait_for_timeout(1300)
    page.keyboard.press(" ")
    now = of_view(page, "v.state.now")
    assert 0 <= now <= 3, "twice a second where less motion is asked for"
    page.keyboard.press("Home")
    assert of_view(page, "[v.state.yaw, v.state.zoom, v.state.now]") == [0.5, 1, -1]


@pytest.mark.slow
def test_fingers_turn_zoom_and_ask(browser, page_file):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    canvas = page.locator("#view-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    hand = context.new_cdp_session(page)

    def touch(kind, *fingers):
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(fingers)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def drag(*paths, steps=5):
        """Move fingers, each from a place to a place, and lift them."""
        for i in range(steps + 1):
            at = [
                tuple(a + (b - a) * i / steps for a, b in zip(start, stop, strict=True))
                for start, stop in paths
            ]
            touch("touchMove" if i else "touchStart", *at)
        touch("touchEnd")
        page.wait_for_timeout(60)

    x, y = middle
    drag(((x - 30, y), (x + 60, y)))
    assert of_view(page, "v.state.yaw") == pytest.approx(0.5 + 90 / 150, abs=0.05)
    assert page.evaluate("scrollX") == 0
    drag(((x - 20, y), (x - 60, y)), ((x + 20, y), (x + 60, y)))
    assert of_view(page, "v.state.zoom") == pytest.approx(3, rel=0.1)
    page.locator("#view-reset").click()
    px, py = of_view(page, "v.at(5)")
    page.touchscreen.tap(box["x"] + px, box["y"] + py)
    page.wait_for_timeout(60)
    assert "trial" in page.locator("#view-tip").inner_text()
    context.close()


@pytest.mark.slow
def test_a_frame_takes_less_than_a_sixtieth_of_a_second(page):
    took = page.evaluate(
        """() => {
            const v = neuroshareView, start = performance.now();
            for (let i = 0; i < 40; i++) { v.state.yaw += 0.03; v.draw(); }
            return (performance.now() - start) / 40;
        }"""
    )
    # What a frame takes grows with its points, and with what it takes to fill and copy the canvas.
    assert took * max(1, 0.5 * 6000 / of_view(page, "v.n")) < 1000 / 60


@pytest.mark.slow
def test_the_page_is_accessible_and_prints_on_few_pages(page):
    axe = os.environ.get("AXE")
    if axe is None:
        pytest.skip("needs axe-core: set AXE to its axe.min.js")
    page.add_script_tag(path=axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
    pages = re.findall(rb"/Type\s*/Page[^s]", page.pdf(format="A4"))
    assert 1 <= len(pages) <= 8
