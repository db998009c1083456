"""Opening the report of 200 runs x 36 points in headless Chromium, against a naive page."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _common import HERE, arguments, ratio, spread, write

from frontrunner.front import Front, Objective
from frontrunner.front.collect import collect
from frontrunner.front.compare import compare
from frontrunner.front.report import write_report
from frontrunner.preferences import dirichlet, grid

METHODS, SEEDS, POINTS = 10, 20, 36
sys.path.insert(0, str(HERE.parent / "tests" / "front"))


def fronts(root: Path, m: int) -> Path:
    """Runs of ten methods with twenty seeds each, every one with a config.yaml and a run.json."""
    objectives = tuple(Objective(f"loss {j + 1}", "min", "nats") for j in range(m))
    for k in range(METHODS):
        for seed in range(SEEDS):
            rng = np.random.default_rng([k, seed])
            # Lattices of four objectives have other numbers of points.
            p = grid(m, POINTS) if m < 4 else dirichlet(m, POINTS, 1.0, seed=seed)
            values = 1.0 + 0.03 * k - np.sqrt(p) + rng.normal(0, 0.02, p.shape)
            cost = {"seconds": 1.0 + rng.random(), "forward_passes": 1000 * (1 + k % 3)}
            front = Front(
                objectives,
                values,
                p,
                "weight",
                np.full(m, 1.4),
                tuple({"seconds": float(x)} for x in rng.random(POINTS)),
                {"label": f"method {k}", "seed": seed, "task": "toy", "cost": cost},
            )
            run = root / f"{k}-{seed}"
            front.save(run / "front.json")
            (run / "run.json").write_text('{"status": "done"}')
            (run / "config.yaml").write_text(f"seed: {seed}\nmethod: {{rate: {k}}}\n")
    return root


def naive(entries: Any, path: Path) -> None:
    """The same points on the same plots with what Plotly offers at once: a trace per run, and what
    the pointer reads as a text per point."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    objectives = entries[0].front.objectives
    m = len(objectives)
    pairs = [(i, j) for j in range(m) for i in range(j)]
    figures = [make_subplots(1, len(pairs)), make_subplots(1, m)]
    for e in entries:
        f = e.front
        texts = [
            f"<b>{e.label}</b>, seed {e.seed}<br>preference {', '.join(f'{x:.3g}' for x in p)}<br>"
            + "<br>".join(f"{o.label}: {x:.5g}" for o, x in zip(objectives, v, strict=True))
            for p, v in zip(f.preferences, f.values, strict=True)
        ]
        style: dict[str, Any] = {"mode": "markers", "text": texts, "name": e.label}
        for c, (i, j) in enumerate(pairs, start=1):
            figures[0].add_trace(
                go.Scatter(x=f.values[:, i], y=f.values[:, j], **style), row=1, col=c
            )
        for j in range(m):
            figures[1].add_trace(
                go.Scatter(x=f.preferences[:, j], y=f.values[:, j], **style), row=1, col=j + 1
            )
    parts = [f.to_html(full_html=False, include_plotlyjs=k == 0) for k, f in enumerate(figures)]
    drawn = "<script>document.documentElement.dataset.drawn = 2; performance.mark('drawn')</script>"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{''.join(parts)}{drawn}", encoding="utf-8")


def alone(path: Path) -> None:
    """The whole of plotly.js, and one plot of two points."""
    from plotly.offline import get_plotlyjs

    path.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><div id=a></div><script>{get_plotlyjs()}</script>"
        "<script>Plotly.newPlot('a', [{x: [1, 2], y: [1, 2]}]).then(() => {"
        "document.documentElement.dataset.drawn = 1; performance.mark('drawn')})</script>",
        encoding="utf-8",
    )


def opened(page: Path, profile: Path) -> dict[str, float]:
    """Open a page in a new browser: processor seconds of its main thread until the first and until
    the last plot is drawn, and the same by the wall clock."""
    from browser import Browser

    with Browser(profile) as browser:
        browser.send("Performance.enable", timeDomain="threadTicks")
        browser.open(page, 300)
        browser.wait("document.documentElement.dataset.drawn", 300)
        metrics = browser.send("Performance.getMetrics")["metrics"]
        marks = browser.run(
            "[performance.getEntriesByName('first-drawn'), performance.getEntriesByName('drawn')]"
            ".map(e => e.length ? e[0].startTime / 1000 : null)"
        )
    thread = next(x["value"] for x in metrics if x["name"] == "ThreadTime")
    return {"thread": thread, "first": marks[0] or marks[1], "wall": marks[1]}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, device=False)
    options = parser.parse_args()
    repeats = options.repeats or 3
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for m in (2, 3, 4):
            root = Path(scratch) / str(m)
            entries = collect([fronts(root / "runs", m)])
            pages = {name: root / f"{name}.html" for name in ("report", "naive", "alone")}
            alone(pages["alone"])
            write_report(compare(entries), entries, pages["report"])
            naive(entries, pages["naive"])
            found: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
            for repeat in range(repeats):
                for name in list(pages) if repeat % 2 else list(pages)[::-1]:
                    profile = root / f"profile-{name}-{repeat}"
                    found[name].append(opened(pages[name], profile))
            thread = {name: [x["thread"] for x in of] for name, of in found.items()}
            results[f"{m} objectives"] = {
                "naive : report, processor time of the page": ratio(
                    thread["naive"], thread["report"]
                ),
                "report : plotly.js and one plot, processor time of the page": ratio(
                    thread["report"], thread["alone"]
                ),
                "report, megabytes": round(pages["report"].stat().st_size / 1e6, 2),
                "naive, megabytes": round(pages["naive"].stat().st_size / 1e6, 2),
                "report, processor seconds": round(min(thread["report"]), 2),
                "naive, processor seconds": round(min(thread["naive"]), 2),
                "plotly.js and one plot, processor seconds": round(min(thread["alone"]), 2),
                "report, seconds to the first plot": round(
                    min(x["first"] for x in found["report"]), 2
                ),
                "report, seconds to the last plot": round(
                    min(x["wall"] for x in found["report"]), 2
                ),
                "naive, seconds to the last plot": round(min(x["wall"] for x in found["naive"]), 2),
                "plotly.js and one plot, seconds": round(min(x["wall"] for x in found["alone"]), 2),
                "load of the machine": round(os.getloadavg()[0], 1),
            }
            for name, value in results[f"{m} objectives"].items():
                print(
                    f"{m} objectives: {name}: {spread(value) if isinstance(value, dict) else value}"
                )
    settings = {"methods": METHODS, "seeds": SEEDS, "points": POINTS}
    print(write("report-cpu", options.out, settings, results))


if __name__ == "__main__":
    main()
