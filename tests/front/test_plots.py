"""Pictures: they hold the points, mark what is dominated, and never touch pyplot."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread

from frontrunner.errors import FrontError
from frontrunner.front import Front, Objective, plots


def front(m: int, seed: int = 0, n: int = 12, **info: object) -> Front:
    rng = np.random.default_rng(seed)
    objectives = tuple(Objective(f"f{j}", "max" if j == 1 else "min", "s") for j in range(m))
    directions = rng.dirichlet(np.ones(m), size=n)
    values = 1.0 - np.sqrt(directions)
    values[-1] = values[0] + 0.2  # dominated in every objective
    values[:, 1] *= -1
    return Front(objectives, values, directions, "weight", info=info)


def drawn(figure, hollow: bool) -> int:
    """How many points of 2-D scatter plots are hollow, or filled."""
    count = 0
    for ax in figure.axes:
        for c in ax.collections:
            if len(c.get_offsets()) and (len(c.get_facecolor()) == 0) == hollow:
                count += len(c.get_offsets())
    return count


def test_two_objectives_show_every_point_and_dominated_ones_hollow() -> None:
    f = front(2)
    mask = f.nondominated()
    figure = plots.figure([f])
    assert 0 < mask.sum() < len(f)
    assert drawn(figure, hollow=False) == mask.sum()
    assert drawn(figure, hollow=True) == (~mask).sum()
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(o.label for o in f.objectives)
    (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert (f.values > [low, bottom]).all()
    assert (f.values < [high, top]).all()


def test_the_staircase_of_one_run_passes_through_its_nondominated_points() -> None:
    f = front(2)
    corners = {tuple(p) for p in plots.figure([f]).axes[0].get_lines()[-1].get_xydata()}
    assert {tuple(v) for v in f.values[f.nondominated()]} <= corners


def test_runs_of_a_label_share_a_colour_and_labels_differ() -> None:
    fronts = [front(2, s) for s in range(4)]
    figure = plots.figure(fronts, ["A", "B", "A", "B"])
    lines = figure.axes[0].get_lines()
    assert len(lines) == 2
    assert len({line.get_color() for line in lines}) == 2
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts[:2] == ["A (2 runs)", "B (2 runs)"]
    assert "dominated" in texts


def test_the_reference_point_is_marked_only_when_in_view() -> None:
    f = front(2)
    near = (f.minimised.max(axis=0) + 0.05) * f.signs
    for reference, shown in ((near, True), ([900.0, -900.0], False)):
        figure = plots.figure([f], reference_point=reference)
        texts = [t.get_text() for t in figure.legends[0].get_texts()]
        assert ("reference" in texts) == shown
        assert figure.axes[0].get_xlim()[1] < 10
        assert len(figure.axes[0].get_lines()) == 1 + shown


def test_three_objectives_have_a_space_and_three_projections() -> None:
    figure = plots.figure([front(3)])
    assert [ax.name for ax in figure.axes] == ["3d"] + ["rectilinear"] * 3
    pairs = {(ax.get_xlabel()[:2], ax.get_ylabel()[:2]) for ax in figure.axes[1:]}
    assert pairs == {("f0", "f1"), ("f0", "f2"), ("f1", "f2")}


def test_more_objectives_are_parallel_axes_with_the_better_end_up() -> None:
    f = front(5)
    (heights,), worst, best = plots.heights({"A": [f]})
    assert heights[0].min() == 0
    assert heights[0].max() == 1
    assert best[1] == f.values[:, 1].max()
    assert best[0] == f.values[:, 0].min()
    assert worst[1] == f.values[:, 1].min()
    (ax,) = plots.figure([f]).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == [o.label for o in f.objectives]
    assert sum(len(c.get_segments()) for c in ax.collections) == len(f)


def test_colours_are_distinct_and_dark_enough_for_white_paper() -> None:
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == 8
    for c in plots.COLOURS:
        assert to_hex(c) == c.lower()
        assert np.dot(to_rgb(c), [0.2126, 0.7152, 0.0722]) < 0.72
    looks = {(plots.colour(i), plots.marker(i)) for i in range(24)}
    assert len(looks) == 24


@pytest.mark.parametrize("m", [2, 3, 6])
def test_png_is_written_whole_with_labels_inside_the_picture(m: int, tmp_path: Path) -> None:
    f = front(m, label="$a_b$ <x>")
    figure = plots.figure([f], title="50 $ each")
    path = tmp_path / "deep" / "front.png"
    plots.save_png(figure, path, dpi=60)
    pixels = imread(path)[..., :3]
    assert pixels.std() > 0.01
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge > 0.99).all(), "something touches the border"
    assert [p.name for p in path.parent.iterdir()] == ["front.png"]


@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_single_point_is_drawn(m: int, tmp_path: Path) -> None:
    objectives = tuple(Objective(f"f{j}") for j in range(m))
    single = Front(objectives, np.zeros((1, m)), reference_point=np.ones(m))
    plots.save_png(plots.figure([single]), tmp_path / "x.png", dpi=40)
    assert imread(tmp_path / "x.png").std() > 0.01


def test_what_cannot_be_drawn_together_is_refused() -> None:
    with pytest.raises(FrontError, match="no fronts"):
        plots.figure([])
    with pytest.raises(FrontError, match="2 labels for 1"):
        plots.figure([front(2)], ["a", "b"])
    with pytest.raises(FrontError, match="different objectives"):
        plots.figure([front(2), front(3)])


def test_notebook_shows_table_and_picture_with_escaped_names() -> None:
    f = front(2, label="<script>x")
    text = f._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<tr>") == len(f) + 1
    assert text.count("dominated</td>") == (~f.nondominated()).sum()
    (image,) = re.findall(r"base64,([^\"]+)\"", text)
    assert base64.b64decode(image).startswith(b"\x89PNG")


def test_front_page_needs_no_network(tmp_path: Path) -> None:
    plots.front_html(front(3, label="<b>x"), tmp_path / "front.html")
    text = (tmp_path / "front.html").read_text(encoding="utf-8")
    assert "<b>x" not in text.split("<body>")[1].split("<script")[0]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?(https?:)?//", text)
    assert text.count('class="figure"') >= 3


def test_importing_the_room_and_drawing_leave_heavy_libraries_and_pyplot_alone() -> None:
    code = (
        "import sys\n"
        "from frontrunner.front import attainment, collect, compare, plots, report, statistics\n"
        "heavy = {'torch', 'matplotlib', 'plotly', 'moocore', 'pandas', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "import numpy as np\n"
        "from frontrunner.front import Front, Objective\n"
        "Front((Objective('a'), Objective('b')), np.eye(2)).plot()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
