"""The report: whole, escaped, without network, and drawn by a real browser where there is one."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from frontrunner.front import Front, Objective, attainment, charts
from frontrunner.front.collect import collect
from frontrunner.front.compare import compare
from frontrunner.front.report import save, write_report

HOSTILE = "</script><img src=x onerror=alert(1)> & 'A'"


def runs(root: Path, m: int, labels: tuple[str, ...], seeds: int = 2) -> Path:
    objectives = tuple(Objective(f"f{j} <i>", "max" if j == 0 else "min", "s") for j in range(m))
    for k, label in enumerate(labels):
        for seed in range(seeds):
            rng = np.random.default_rng(10 * k + seed)
            p = rng.dirichlet(np.ones(m), size=8)
            values = 1.0 + 0.1 * k - np.sqrt(p)
            values[:, 0] *= -1
            cost = {"seconds": 1.0 + k, "forward_passes": 100}
            info = {"label": label, "seed": seed, "task": "toy", "split": "test", "cost": cost}
            front = Front(objectives, values, p, "weight", info=info)
            front.save(root / "runs" / f"{k} #{seed}" / "front.json")
    return root / "runs"


class Page(HTMLParser):
    """Counts tags, remembers links, headings and text, and what is left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href"):
                self.sources.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    out = {}
    for m in (2, 3, 5):
        root = tmp_path_factory.mktemp(f"m{m}")
        entries = collect([runs(root, m, ("plain", HOSTILE))])
        write_report(compare(entries), entries, root / "out" / "report.html")
        out[m] = root / "out" / "report.html"
    return out


@pytest.mark.parametrize("m", [2, 3, 5])
def test_the_page_is_well_formed_and_asks_nothing_of_the_network(
    pages: dict[int, Path], m: int
) -> None:
    text = pages[m].read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.sources == ["data:,"]  # an empty icon, so that none is asked for
    assert "img" not in page.tags
    assert HOSTILE in page.text
    assert "f0 <i> [s] ↑" in page.text
    assert text.count("plotly.js v") == 1, "plotly's script belongs in the page once"
    assert len(text) < (3_000_000 if m == 3 else 2_400_000), "only what its plots need of plotly.js"


@pytest.mark.parametrize("m", [2, 3, 5])
def test_every_section_is_there(pages: dict[int, Path], m: int) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", pages[m].read_text(encoding="utf-8"))
    for title in (
        "What may be concluded",
        "Warnings",
        "Fronts",
        "Indicators",
        "Conventions",
        "Attainment surfaces",
        "Differences in attainment",
        "Paired tests on the hypervolume",
        "Coverage",
        "Hypervolume against seconds",
        "Alignment with preferences",
        "Configuration differences",
        "Runs",
    ):
        assert title in headings


def test_every_sentence_of_the_comparison_is_on_the_page(tmp_path: Path) -> None:
    entries = collect([runs(tmp_path, 2, ("plain", HOSTILE))])
    c = compare(entries)
    write_report(c, entries, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert c.warnings
    assert c.conclusions
    for sentence in (*c.warnings, *c.conclusions):
        assert html.escape(sentence) in text


def test_links_lead_to_the_fronts(pages: dict[int, Path]) -> None:
    from urllib.parse import unquote

    links = Page(pages[2].read_text(encoding="utf-8")).links
    assert len(links) == 4
    for link in links:
        assert not link.startswith("/")
        assert (pages[2].parent / unquote(link)).is_file()


def test_differences_are_drawn_for_each_pair_of_few_and_for_the_best_two_of_many(
    tmp_path: Path,
) -> None:
    for count, plots in ((2, 1), (3, 3), (4, 1)):
        root = tmp_path / str(count)
        entries = collect([runs(root, 2, tuple("abcd"[:count]))])
        write_report(compare(entries), entries, root / "report.html")
        text = (root / "report.html").read_text(encoding="utf-8")
        assert len(set(re.findall(r'id="(difference-\d)"', text))) == plots


def test_the_plot_of_differences_is_in_own_units_and_signed_towards_the_first(
    tmp_path: Path,
) -> None:
    entries = collect([runs(tmp_path, 2, ("a", "b"))])  # f0 is maximised, and a is the better
    heat = charts.difference(compare(entries), entries, "a", "b").data[0]
    groups = [[e.front.minimised for e in entries if e.label == k] for k in "ab"]
    found = attainment.difference(*groups)
    np.testing.assert_allclose(heat.x, -found.x[::-1])
    np.testing.assert_allclose(heat.z, 100 * found.values[:, ::-1], atol=0.5)  # whole per cent
    assert heat.z.sum() > 0


def test_one_run_alone_makes_a_page_too(tmp_path: Path) -> None:
    entries = collect([runs(tmp_path, 2, ("only",), seeds=1)])
    write_report(compare(entries), entries, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "compared with nothing" in text
    assert "Paired tests" not in text


def test_save_writes_four_whole_files_and_leaves_no_others(tmp_path: Path) -> None:
    entries = collect([runs(tmp_path, 2, ("plain", HOSTILE))])
    c = compare(entries)
    paths = save(c, entries, tmp_path / "out")
    names = ["comparison.json", "comparison.md", "comparison.png", "report.html"]
    assert [p.name for p in paths] == names
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert json.loads(paths[0].read_text(encoding="utf-8")) == c.to_dict()
    document = paths[1].read_text(encoding="utf-8")
    assert "## What may be concluded" in document
    assert "<img" not in document
    assert paths[2].read_bytes().startswith(b"\x89PNG")
