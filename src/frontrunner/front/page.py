"""Pages of HTML that need nothing but themselves: style, plotly's script once, escaped text."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frontrunner.front import explore
from frontrunner.front.collect import FRONT, Entry, label_of
from frontrunner.front.text import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from frontrunner.front.front import Front

STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --rule: #d1d9e0; --tint: #f6f8fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: white;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 46px 0 10px; padding-top: 14px; border-top: 1px solid var(--rule); }
p { margin: 6px 0 12px; max-width: 46em; }
.soft, figcaption, caption { color: var(--soft); }
ul { padding-left: 1.2em; margin: 6px 0; max-width: 52em; } li { margin: 5px 0; }
li, td, th, p { overflow-wrap: anywhere; }
.box { border-left: 4px solid var(--accent); background: var(--tint); padding: 10px 20px;
  margin: 22px 0; border-radius: 0 6px 6px 0; }
.box h2 { border: 0; margin: 4px 0; padding: 0; font-size: 17px; }
.warn { border-left-color: #d55e00; background: #fff8f3; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
tbody th { font-weight: 500; }
td small { display: block; color: var(--soft); font-size: 12px; white-space: nowrap; }
td.best { font-weight: 700; } td.best small { font-weight: 400; }
td.number { white-space: nowrap; }
td.words { overflow-wrap: anywhere; min-width: 8em; max-width: 22em; }
figure.panels { overflow-x: auto; } .panels > .plotly-graph-div { min-width: 700px; }
figure { margin: 14px 0 8px; } figcaption { font-size: 14px; margin-top: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 8px 20px; }
a { color: var(--accent); }
h3 { font-size: 16px; margin: 0; }
.explore { border: 1px solid var(--rule); border-radius: 8px; padding: 12px 18px; margin: 14px 0;
  background: white; font-size: 14px; }
.explore [hidden] { display: none !important; } .explore p { margin: 6px 0; max-width: none; }
.row { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center; }
.explore select, .explore button { font: inherit; color: inherit; padding: 3px 8px; max-width: 20em;
  border: 1px solid #8c959f; border-radius: 6px; background: var(--tint); cursor: pointer; }
.explore button:hover { background: var(--rule); }
.explore :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
#explore-sliders { margin: 8px 0; } #explore-sliders > p { font-size: 13px; }
#explore-sliders.many { display: grid; gap: 2px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); }
.many > p { grid-column: 1 / -1; }
.slider { display: grid; grid-template-columns: 1fr auto; gap: 0 12px; align-items: center; }
.slider label { grid-column: 1 / -1; }
.slider input { width: 100%; margin: 4px 0; accent-color: var(--accent); }
.slider output { font-variant-numeric: tabular-nums; min-width: 3em; text-align: right; }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: 13px; }
.explore dl { display: flex; flex-wrap: wrap; gap: 4px 30px; margin: 8px 0; }
.explore dt { color: var(--soft); } .explore dd { margin: 0; font-size: 18px; font-weight: 600;
  font-variant-numeric: tabular-nums; } .explore dd small { font-weight: 400; font-size: 13px; }
.cost dd { font-weight: 400; }
#explore-export { display: flex; gap: 10px; align-items: center; }
code { font: 13px/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
#explore-command span { white-space: nowrap; }
#explore-command { background: var(--tint); padding: 6px 10px; border-radius: 6px;
  overflow-wrap: anywhere; flex: 1; }
@media (min-width: 800px) and (min-height: 700px) {
  .explore { position: sticky; bottom: 8px; z-index: 5; box-shadow: 0 2px 14px #1f232826; } }
@media (max-width: 600px) { main { padding: 20px 14px; } .pair { grid-template-columns: 1fr; } }
@media print { main { max-width: none; padding: 0; } h2 { break-after: avoid; }
  .explore { position: static; box-shadow: none; } }
"""

UNWANTED = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "sendChartToCloud"]
"""Buttons that say nothing about a front, and the one that would upload it."""


@dataclass(frozen=True)
class Cell:
    """A table cell: text, a smaller second line, whether it is the best, where it links, and
    whether it is words that may go over several lines."""

    text: str
    small: str = ""
    best: bool = False
    link: str = ""
    wrap: bool = False


def page(title: str, body: str, entries: Sequence[Entry] = ()) -> str:
    """A whole page; ``body`` is HTML, the title text. It carries plotly.js once, and the points of
    ``entries``, in the order of `bundles.ordered`, for the figures that `chart` made."""
    points = explore.as_json(explore.store(entries)) if entries else ""
    data = f'<script type="application/json" id="points">{points}</script>' if points else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>\n{body}\n</main>{data}\n"
        # Last, so that text and tables are there before plots.
        f"<script>{plotly_script(space='scatter3d' in body)}</script>\n"
        f"<script>{explore.script()}</script></body></html>\n"
    )


def plotly_script(*, space: bool) -> str:
    """What a page needs of plotly.js, as ``scripts/plotly.sh`` makes it: scatter, scattergl and
    heatmap, in ``space`` scatter3d as well. The whole takes twice as long to open."""
    name = f"plotly-{'space' if space else 'flat'}.min.js"
    return (Path(__file__).parent / "vendor" / name).read_text(encoding="utf-8")


def chart(figure: Figure, name: str, caption: str = "", *, panels: bool = False) -> str:
    """A plotly figure as HTML; `page` brings the script that draws it and what the points are.

    ``panels`` are too many for a narrow screen: there the figure is scrolled sideways.
    """
    from plotly.io.json import to_json_plotly

    content = json.loads(to_json_plotly(figure, engine="json"))
    content["config"] = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": UNWANTED,
    }
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure{" class=panels" if panels else ""}><div id="{name}" class="plotly-graph-div" '
        f'style="height:{figure.layout.height}px"></div>{note}'
        f'<script type="application/json" class="figure" data-plot="{name}">'
        f"{explore.as_json(content)}</script></figure>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> str:
    """A table; the first cell of each row is its head."""
    out = ["<div class='wide'><table><thead><tr>"]
    out += [f"<th scope='col'>{html.escape(h)}</th>" for h in head]
    out.append("</tr></thead><tbody>")
    for row in rows:
        cells = [c if isinstance(c, Cell) else Cell(c) for c in row]
        out.append("<tr>" + _cell(cells[0], "th scope='row'", "th"))
        for c in cells[1:]:
            kind = ("words" if c.wrap else "number") + (" best" if c.best else "")
            out.append(_cell(c, f"td class='{kind}'", "td"))
        out.append("</tr>")
    return "".join([*out, "</tbody></table></div>"])


def _cell(cell: Cell, opening: str, closing: str) -> str:
    text = html.escape(cell.text)
    if cell.link:
        text = f"<a href='{html.escape(cell.link)}'>{text}</a>"
    small = f"<small>{html.escape(cell.small)}</small>" if cell.small else ""
    return f"<{opening}>{text}{small}</{closing}>"


def bullets(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def front_page(front: Front, run: Path = Path()) -> str:
    """One front: its picture, its indicators and its points. ``run`` is the run's directory."""
    from frontrunner.front import charts, interactive

    label = label_of(front, "Front")
    seed = front.info.get("seed")
    entry = Entry(front, label, seed if isinstance(seed, int) else None, run / FRONT)
    said = [(k, front.info.get(k)) for k in ("task", "split", "seed", "evaluator")]
    subtitle = " · ".join(f"{k} {v}" for k, v in said if v is not None)
    mask = front.nondominated()
    body = [f"<h1>{html.escape(label)}</h1>", f"<p class='soft'>{html.escape(subtitle)}</p>"]
    drawn = interactive.fronts([entry], front.reference_point)
    body += [chart(f, f"front-{i}", says, panels=i > 0) for i, (says, f) in enumerate(drawn)]
    body.append(explore.control([entry]))
    obeyed = charts.alignment([entry])
    if obeyed is not None:
        body += [
            "<h2>What was asked for, and what came</h2>",
            chart(obeyed, "alignment", panels=True),
        ]
    values = {k: v for k, v in front.indicators().items() if v is not None}
    rows: list[list[str | Cell]] = [
        [k.replace("_", " "), Cell(_value(v))] for k, v in values.items()
    ]
    if front.reference_point is not None:
        rows.append(["reference point", Cell(_value(list(front.reference_point)))])
    body += ["<h2>Indicators, in the objectives' own units</h2>", table(["", ""], rows)]
    asked = front.preferences is not None
    head = ["point", *(["preference"] if asked else []), *(o.label for o in front.objectives), ""]
    points = []
    for i, row in enumerate(front.values):
        said_of = [_value(list(front.preferences[i]))] if front.preferences is not None else []
        note = "" if mask[i] else "dominated"
        points.append([str(i), *said_of, *(number(x, 5) for x in row), note])
    body += ["<h2>Points</h2>", table(head, points)]
    return page(label, "\n".join(body), [entry])


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    return number(float(value)) if isinstance(value, (int, float)) else str(value)
