"""The report in a real browser: it draws, and its reader can move along a front."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frontrunner.front import Front, Objective
from frontrunner.front.collect import Entry, collect
from frontrunner.front.compare import compare
from frontrunner.front.plots import front_html
from frontrunner.front.report import write_report

DRAWN = "document.documentElement.dataset.drawn"
# A page on a software renderer says how slow that is; it is no error of the page.
RENDERER = re.compile(r"GL Driver Message|willReadFrequently")


def front(m: int, seed: int, label: str, asked: bool = True, ours: bool = True) -> Front:
    rng = np.random.default_rng([seed, len(label)])
    p = rng.dirichlet(np.ones(m), size=9)
    values = np.round(1.0 - np.sqrt(p) + rng.normal(0, 0.01, p.shape), 4)
    values[:, 0] *= -1
    objectives = tuple(Objective(f"f{j}", "max" if j == 0 else "min", "nats") for j in range(m))
    return Front(
        objectives,
        values,
        p if asked else None,
        "weight" if asked else None,
        costs=tuple({"seconds": 0.5 + i} for i in range(len(p))) if ours else (),
        info={"label": label, "seed": seed} if ours else {},
    )


def write(root: Path, m: int, *, labels: tuple[str, ...] = ("a", "b")) -> Path:
    """Run directories as `frontrunner run` leaves them, as far as a report looks at them."""
    for label in labels:
        for seed in range(2):
            run = root / "runs" / f"{label} {seed}"
            front(m, seed, label).save(run / "front.json")
            (run / "run.json").write_text(json.dumps({"status": "done", "seed": seed}))
            (run / "pareto_set").mkdir()
            (run / "pareto_set" / "pareto_set.json").write_text("{}")
    return root / "runs"


class Reports:
    """Reports in the browser. Those of the same runs are made once and opened once in a row."""

    def __init__(self, browser: Any, root: Path) -> None:
        self.browser, self.root = browser, root
        self.made: dict[Any, tuple[Path, list[Entry]]] = {}

    def __call__(self, *paths: Path) -> list[Entry]:
        """Open the report over these paths, wait until it is drawn, and return its entries."""
        entries = collect(paths)
        report = self.root / f"{len(self.made)}.html"
        write_report(compare(entries), entries, report)
        self.made[report] = report, entries
        self._open(report)
        return entries

    def of(self, m: int) -> list[Entry]:
        """The same for two methods with two seeds each, the first run chosen."""
        if m not in self.made:
            self(write(self.root / str(m), m))
            self.made[m] = self.made[self.root / f"{len(self.made) - 1}.html"]
        report, entries = self.made[m]
        if not self.browser.run("location.href").endswith(f"/{report.name}"):
            self._open(report)
        pick(self.browser, "explore-method", "a")
        pick(self.browser, "explore-seed", "0")
        return entries

    def _open(self, report: Path) -> None:
        self.browser.open(report)
        self.browser.wait(DRAWN)


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return Reports(browser, tmp_path_factory.mktemp("reports"))


def pick(browser: Any, name: str, value: str) -> None:
    """Choose an option, as a user's choice does it."""
    browser.run(
        f"(e => {{e.value = '{value}'; e.dispatchEvent(new Event('change'))}})"
        f"(document.getElementById('{name}'))"
    )


def text(browser: Any, name: str) -> str:
    return str(browser.run(f"document.getElementById('{name}').textContent"))


def shown(browser: Any, m: int) -> list[float]:
    """The objectives that the control shows."""
    return [float(text(browser, f"explore-value-{j}").split()[0]) for j in range(m)]


def marked(browser: Any, plot: str) -> list[list[float]]:
    """Where the rings of a plot are, one per subplot."""
    script = f"document.getElementById('{plot}').layout.shapes.filter(s => s.xanchor !== undefined)"
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    places = browser.run(f"{script}.map(s => [s.xanchor, s.yanchor])")
    return places[::2]  # each ring has a white edge around it


def focus(browser: Any, name: str) -> None:
    browser.run(f"document.getElementById('{name}').focus()")


def nearest(front: Front, wanted: list[float]) -> int:
    assert front.preferences is not None
    return int(np.linalg.norm(front.preferences - wanted, axis=1).argmin())


def errors(browser: Any) -> list[str]:
    return [m for m in browser.messages if not RENDERER.search(m)]


@pytest.mark.parametrize("m", [2, 3, 4])
def test_every_plot_is_drawn_without_errors_and_without_a_network(
    browser: Any, opened: Reports, m: int
) -> None:
    opened.of(m)
    drawn = browser.run(
        "[...document.querySelectorAll('.plotly-graph-div')].map(d => "
        "[d.id, d.querySelectorAll('.main-svg').length, d.querySelectorAll('canvas').length])"
    )
    names = {name for name, _, _ in drawn}
    assert {"front-0", "alignment"} <= names
    assert ("surfaces" in names) == (m <= 3)
    assert ("difference-0" in names) == (m == 2)
    assert all(svg > 0 for _, svg, _ in drawn)
    assert errors(browser) == []
    if m == 2:  # the other method's middle line is a copy of its own panel's
        lines = browser.run(
            "document.getElementById('surfaces')._fullData.map(t => [t.line.color, t._length])"
        )
        assert [n for colour, n in lines if colour == "#D0D7DE"] != []
        assert all(n > 2 for _, n in lines)
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data", "blob"}
    assert sum(url.startswith("file:") for url in browser.requests) == 1
    if m == 2:  # nothing among the buttons sends a chart away
        titles = browser.run(
            "[...document.querySelectorAll('[data-title]')].map(e => e.dataset.title)"
        )
        assert set(titles) == {"Download plot as a PNG", "Pan", "Reset axes", "Zoom"}


def test_plots_hold_every_point_and_mark_the_dominated(browser: Any, opened: Reports) -> None:
    entries = opened.of(2)
    traces = browser.run(
        "document.getElementById('front-0').data.filter(t => t.meta && t.meta.points)"
        ".map(t => [t.legendgroup, t.marker.symbol.endsWith('-open'), t.x, t.y])"
    )
    drawn = {(g, hollow, x, y) for g, hollow, xs, ys in traces for x, y in zip(xs, ys, strict=True)}
    expected = {
        (e.label, not on, *values)
        for e in entries
        for on, values in zip(e.front.nondominated(), e.front.values.tolist(), strict=True)
    }
    assert drawn == expected
    assert any(hollow for _, hollow, _, _ in drawn)


def test_the_slider_moves_to_the_nearest_evaluated_preference(
    browser: Any, opened: Reports
) -> None:
    entries = opened.of(2)
    first = entries[0].front
    focus(browser, "explore-slider-0")
    seen = set()
    for keys, weight in ((("Home", 1), 0.0), (("ArrowRight", 30), 0.3), (("End", 1), 1.0)):
        browser.press(*keys)
        i = nearest(first, [weight, 1 - weight])
        seen.add(i)
        assert shown(browser, 2) == pytest.approx(first.values[i], rel=1e-4)
        assert float(text(browser, "explore-cost-seconds")) == first.costs[i]["seconds"]
        assert marked(browser, "front-0") == [first.values[i].tolist()]
        assert first.preferences is not None
        p = first.preferences[i]
        assert marked(browser, "alignment") == [[p[j], first.values[i, j]] for j in range(2)]
        said = text(browser, "explore-nearest")
        gap = np.linalg.norm(p - [weight, 1 - weight])
        found = re.search(r"([\d.e-]+) away", said)
        assert found
        assert float(found[1]) == pytest.approx(gap, rel=0.06)
        assert f"point {i + 1} of 9" in said
    assert len(seen) == 3, "the fronts of this test have a point for each of these preferences"
    assert "nats" in text(browser, "explore-value-0")
    assert errors(browser) == []


def test_another_method_and_seed_are_chosen_and_keep_the_preference(
    browser: Any, opened: Reports
) -> None:
    entries = opened.of(2)
    focus(browser, "explore-slider-0")
    browser.press("Home")
    browser.press("ArrowRight", 30)
    pick(browser, "explore-method", "b")
    pick(browser, "explore-seed", "3")
    other = entries[3]
    assert (other.label, other.seed) == ("b", 1)
    i = nearest(other.front, [0.3, 0.7])
    assert shown(browser, 2) == pytest.approx(other.front.values[i], rel=1e-4)
    assert marked(browser, "front-0") == [other.front.values[i].tolist()]


def test_the_arrows_go_through_the_points_in_order_of_preference(
    browser: Any, opened: Reports
) -> None:
    first = opened.of(2)[0].front
    assert first.preferences is not None
    focus(browser, "explore-slider-0")
    browser.press("Home")
    order = np.argsort(first.preferences[:, 0])
    for i in order[1:]:
        browser.click_on("document.getElementById('explore-on')")
        assert shown(browser, 2) == pytest.approx(first.values[i], rel=1e-4)
    browser.click_on("document.getElementById('explore-back')")
    assert shown(browser, 2) == pytest.approx(first.values[order[-2]], rel=1e-4)


def test_a_slider_for_each_of_three_objectives_stays_on_the_simplex(
    browser: Any, opened: Reports
) -> None:
    first = opened.of(3)[0].front
    sliders = "[...document.querySelectorAll('.slider input')].map(e => +e.value)"
    focus(browser, "explore-slider-1")
    browser.press("End")
    assert browser.run(sliders) == [0, 1, 0]
    for name, key, wanted in (
        ("explore-slider-1", "PageDown", [0.2, 0.6, 0.2]),
        ("explore-slider-2", "PageUp", [0.1, 0.3, 0.6]),  # the others stay at 1 to 3
    ):
        focus(browser, name)
        browser.press(key, 4)  # by a tenth each
        assert browser.run(sliders) == pytest.approx(wanted, abs=0.006)
        i = nearest(first, wanted)
        assert shown(browser, 3) == pytest.approx(first.values[i], rel=1e-4)
        pairs = [[first.values[i, a], first.values[i, b]] for a, b in ((0, 1), (0, 2), (1, 2))]
        assert marked(browser, "front-1") == pairs
        chosen = "document.getElementById('front-0').data.at(-1)"
        assert browser.run(f"[...{chosen}.x, ...{chosen}.y, ...{chosen}.z]") == list(
            first.values[i]
        )
    assert errors(browser) == []


def test_four_objectives_mark_the_line_of_the_point(browser: Any, opened: Reports) -> None:
    entries = opened.of(4)
    focus(browser, "explore-slider-3")
    browser.press("End")
    first = entries[0].front
    i = nearest(first, [0, 0, 0, 1])
    assert shown(browser, 4) == pytest.approx(first.values[i], rel=1e-4)
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shapes = browser.run("document.getElementById('front-0').layout.shapes")
    (path,) = [s["path"] for s in shapes if s["type"] == "path"]
    heights = [float(corner.split(",")[1]) for corner in re.findall(r"[ML]([^ML]+)", path)]
    every = np.vstack([e.front.minimised for e in entries])
    worst, best = every.max(axis=0), every.min(axis=0)
    assert heights == pytest.approx((worst - first.minimised[i]) / (worst - best))


def test_the_export_command_is_for_the_point_and_can_be_copied(
    browser: Any, opened: Reports
) -> None:
    entries = opened.of(2)
    focus(browser, "explore-slider-0")
    browser.press("Home")
    words = shlex.split(text(browser, "explore-command"))
    assert words[:2] == ["frontrunner", "export"]
    assert Path(words[2]) == entries[0].path.parent  # its name has a blank
    first = entries[0].front
    assert first.preferences is not None
    asked = [float(x) for x in words[words.index("--preference") + 1].split(",")]
    np.testing.assert_allclose(asked, first.preferences[nearest(first, [0, 1])], atol=1e-12)
    assert words[-2] == "--out"
    browser.click_on("document.getElementById('explore-copy')")
    browser.wait("document.getElementById('explore-copy').textContent === 'Copied'")
    focus(browser, "explore-slider-0")
    browser.press("End")
    assert text(browser, "explore-copy") == "Copy", "what was copied is not this command"


def test_the_command_of_a_real_run_exports_the_model(
    browser: Any, tiny: list[str], work: Path
) -> None:
    import frontrunner.run as runs
    from frontrunner.cli import main

    done = runs.run([*tiny, "method=learning/cosmos", f"output={work / 'runs'}"])
    browser.open(done.directory / "front.html")
    browser.wait(DRAWN)
    assert "@" not in text(browser, "explore-command")
    words = shlex.split(text(browser, "explore-command"))
    words[-1] = str(work / "model")
    assert main(words[1:]) == 0
    assert list((work / "model").glob("*.safetensors"))


def test_fronts_by_other_tools_have_the_slider_and_no_command(
    browser: Any, opened: Reports, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere" / "front.json"
    front(2, 0, "", ours=False).save(path)
    (entry,) = opened(path)
    focus(browser, "explore-slider-0")
    browser.press("Home")
    i = nearest(entry.front, [0, 1])
    assert shown(browser, 2) == pytest.approx(entry.front.values[i], rel=1e-4)
    assert "no run directory" in text(browser, "explore-why")
    assert browser.run("document.getElementById('explore-export').hidden")
    assert errors(browser) == []


def test_fronts_without_preferences_have_no_dead_control(
    browser: Any, opened: Reports, tmp_path: Path
) -> None:
    alone = tmp_path / "alone" / "front.json"
    front(2, 0, "unasked", asked=False).save(alone)
    opened(alone)
    assert browser.run("document.querySelectorAll('.explore, input, select').length") == 0
    assert "carry no preferences" in text(browser, "explore-none")

    opened(write(tmp_path, 2), alone)  # beside fronts that have some
    pick(browser, "explore-method", "unasked")
    assert "carry no preferences" in text(browser, "explore-said")
    assert browser.run("document.querySelectorAll('.slider').length") == 0
    assert browser.run("document.getElementById('explore-export').hidden")
    assert marked(browser, "front-0") == []
    assert errors(browser) == []


def test_the_legend_turns_a_method_off_and_on(browser: Any, opened: Reports) -> None:
    opened.of(2)
    state = (
        "document.getElementById('front-0')._fullData"
        ".filter(t => t.legendgroup === 'b').map(t => t.visible)"
    )
    assert set(browser.run(state)) == {True}
    key = "document.querySelectorAll('#front-0 .legendtoggle')[1]"
    browser.click_on(key)
    browser.wait(f"{state}.every(v => v === 'legendonly')")
    others = state.replace("=== 'b'", "=== 'a'")
    assert set(browser.run(others)) == {True}
    browser.run("new Promise(done => setTimeout(done, 500))")  # not a double click
    browser.click_on(key)
    browser.wait(f"{state}.every(v => v === true)")


def test_a_click_on_a_point_chooses_it(browser: Any, opened: Reports) -> None:
    entries = opened.of(2)
    target = entries[3].front  # of another method and seed than the one that is chosen
    values = target.values[0]
    x, y = browser.run(
        "(d => {d.scrollIntoView(); const b = d.getBoundingClientRect(), l = d._fullLayout;"
        f"return [b.left + l.xaxis._offset + l.xaxis.l2p({values[0]}),"
        f"b.top + l.yaxis._offset + l.yaxis.l2p({values[1]})]}})"
        "(document.getElementById('front-0'))"
    )
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x - 1, y=y)
    browser.run("new Promise(done => setTimeout(done, 100))")
    browser.click(x, y)
    browser.wait("document.getElementById('explore-method').value === 'b'")
    assert shown(browser, 2) == pytest.approx(values, rel=1e-4)
    assert browser.run("document.getElementById('explore-seed').selectedOptions[0].text") == "1"


def test_controls_have_names_and_say_their_values(browser: Any, opened: Reports) -> None:
    opened.of(2)
    focus(browser, "explore-slider-0")
    browser.press("Home")
    browser.press("ArrowRight", 50)
    browser.send("Accessibility.enable")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    browser.send("Accessibility.disable")
    named = {
        (n["role"]["value"], n["name"]["value"])
        for n in nodes
        if not n.get("ignored") and "role" in n and "name" in n
    }
    assert ("slider", "preference for f0 : f1") in named
    assert ("combobox", "method") in named
    assert ("combobox", "seed") in named
    assert {("button", "previous point"), ("button", "next point"), ("button", "Copy")} <= named
    spoken = "document.getElementById('explore-slider-0').getAttribute('aria-valuetext')"
    assert browser.run(spoken) == "f0 0.5, f1 0.5"


@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Any, opened: Reports, m: int) -> None:
    opened.of(m)
    browser.resize(390, 800)
    try:
        browser.wait("document.documentElement.scrollWidth <= 390")
    finally:
        browser.resize(1280, 900)


def test_the_page_of_one_front_has_the_control_too(browser: Any, tmp_path: Path) -> None:
    one = front(3, 0, "one")
    front_html(one, tmp_path / "front.html")
    browser.open(tmp_path / "front.html")
    browser.wait(DRAWN)
    focus(browser, "explore-slider-0")
    browser.press("End")
    i = nearest(one, [1, 0, 0])
    assert shown(browser, 3) == pytest.approx(one.values[i], rel=1e-4)
    assert errors(browser) == []
