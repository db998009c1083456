"""A comparison of fronts as one W&B run: fronts overlaid, indicators, tests, and the report.

Unlike a training run's tracker, which is a view beside the truth, this record is what was asked
for: what goes wrong in it ends the command.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frontrunner import files
from frontrunner.errors import ConfigError, RunError
from frontrunner.front import attainment
from frontrunner.front.collect import RUN, Entry
from frontrunner.front.comparison import Comparison
from frontrunner.tracking import offline
from frontrunner.tracking.tracker import WandbTracker, front_rows, is_rank_zero

KEY = "comparison"


class ComparisonTracker(WandbTracker):
    """One W&B run of job type ``report``; arguments are those of `WandbTracker`."""

    instead_of_online = "leave out --online"
    instead_of_wandb = "use `frontrunner compare`, which writes the same to files"

    def log_comparison(
        self, comparison: Comparison, entries: Sequence[Entry], written: Sequence[Path]
    ) -> None:
        """Log a comparison and the files that `frontrunner.front.report.save` wrote of it.

        Tables ``comparison/points`` (every point of every front: method, seed, preference, values,
        whether dominated in its run), ``comparison/runs`` (indicators by run), ``/indicators``
        (statistics by method, with intervals), ``/tests`` and ``/words``; plots
        ``comparison/fronts`` (points, and for two objectives what half of a method's runs attain)
        and ``comparison/picture``; the page as ``comparison/report``, all files as an artifact; and
        the mean hypervolume of each method in the summary.

        Raises:
            RunError: W&B failed.
        """
        if self._run is None:
            return
        try:
            self._log(comparison, entries, written)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            said = f"W&B: {type(error).__name__}: {reason}"
            raise RunError(f"{said}; {self.instead_of_wandb}") from error

    def _log(
        self, comparison: Comparison, entries: Sequence[Entry], written: Sequence[Path]
    ) -> None:
        import wandb

        c = comparison
        tables: dict[str, tuple[Any, Any]] = {
            "points": point_rows(entries),
            "runs": run_rows(c, entries),
            "indicators": indicator_rows(c),
            "tests": pair_rows(c),
            "words": (
                ["kind", "sentence"],
                [["conclusion", x] for x in c.conclusions] + [["warning", x] for x in c.warnings],
            ),
        }
        for name, (columns, rows) in tables.items():
            table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
            self._run.log({f"{KEY}/{name}": table})
        x, y = c.objectives[:2]
        columns, rows = tables["points"]
        self._run.log(
            {
                f"{KEY}/scatter": wandb.plot.scatter(
                    wandb.Table(columns=columns, data=rows, allow_mixed_types=True),
                    x.name,
                    y.name,
                    title=f"{y.label} over {x.label}, all runs",
                )
            }
        )
        lines = overlaid(c, entries)
        self._run.log(
            {
                f"{KEY}/fronts": wandb.plot.line_series(
                    xs=[line[0] for line in lines.values()],
                    ys=[line[1] for line in lines.values()],
                    keys=list(lines),
                    title=f"{y.label} over {x.label}, by method",
                    xname=x.name,
                )
            }
        )
        artifact = wandb.Artifact(f"{KEY}-{self.run_id}", type=KEY)
        for path in written:
            artifact.add_file(str(path), name=path.name)
            if path.suffix == ".png":
                self._run.log({f"{KEY}/picture": wandb.Image(str(path))})
            elif path.suffix == ".html":
                self._run.log({f"{KEY}/report": wandb.Html(str(path), inject=False)})
        self._run.log_artifact(artifact)
        summary: dict[str, Any] = {f"{KEY}/reference_point": c.reference_point.tolist()}
        for g in c.groups:
            statistic = g.statistics["hypervolume"]
            if statistic is not None:
                summary[f"hypervolume/{g.label}"] = statistic.mean
        self._run.summary.update(summary)


def check(*, online: bool = False) -> None:
    """Fail before any work if a report cannot be written.

    Raises:
        ConfigError: see `WandbTracker.check`.
    """
    mode = "online" if online else "offline"
    ComparisonTracker(directory=Path(), run_id="check", mode=mode).check()


def latest(directory: str | os.PathLike[str]) -> Path | None:
    """The folder of the last W&B record in a directory; None if there is none."""
    found = offline.records(directory)
    return found[-1].parent if found else None


def report(
    comparison: Comparison,
    entries: Sequence[Entry],
    written: Sequence[Path],
    *,
    directory: str | os.PathLike[str],
    project: str | None = None,
    name: str | None = None,
    entity: str | None = None,
    online: bool = False,
) -> str | None:
    """Write a comparison to W&B, offline unless ``online``; returns its id, or None on a process
    that is not the first of a job.

    The id is made of what the comparison found, so that the same one, reported again, is the same
    W&B run. Project and entity are those of the runs' own loggers where they agree and none is
    given.

    Raises:
        ConfigError: W&B cannot start, see `WandbTracker`.
        RunError: W&B failed later.
    """
    own = logger_of(entries)
    content = json.dumps(comparison.to_dict(), sort_keys=True)
    run_id = hashlib.sha256(content.encode()).hexdigest()[:16]
    c = comparison
    label = name or "comparison" + (f" on {c.task}" if c.task else "")
    tracker = ComparisonTracker(
        directory=directory,
        run_id=run_id,
        name=label,
        job_type="report",
        configuration={
            "task": c.task,
            "split": c.split,
            "baseline": c.baseline,
            "confidence": c.confidence,
            "reference_point": c.reference_point.tolist(),
            "reference_source": c.reference_source,
            "methods": {g.label: {"runs": len(g.runs), "seeds": list(g.seeds)} for g in c.groups},
        },
        mode="online" if online else "offline",
        project=project or own.get("project") or "frontrunner",
        entity=entity or own.get("entity"),
    )
    if not is_rank_zero():
        return None
    with tracker:
        tracker.log_comparison(comparison, entries, written)
    return run_id


def logger_of(entries: Sequence[Entry]) -> dict[str, str]:
    """``project`` and ``entity`` that all runs with a W&B logger in their ``config.yaml`` share."""
    from frontrunner import config as configuration

    said: dict[str, set[str | None]] = {"project": set(), "entity": set()}
    for e in entries:
        try:
            logger = configuration.load(e.path.parent / "config.yaml").get("logger") or {}
        except ConfigError:
            continue
        if "project" in logger:
            for key, values in said.items():
                values.add(logger.get(key))
    shared = {key: next(iter(values)) for key, values in said.items() if len(values) == 1}
    return {key: value for key, value in shared.items() if value}


# ---------------------------------------------------------------------- rows

Rows = tuple[list[str], list[list[Any]]]


def point_rows(entries: Sequence[Entry]) -> Rows:
    """Every point of every front: method, seed, and what `front_rows` says of it."""
    asked = list(dict.fromkeys(name for e in entries for name in front_rows(e.front)[0]))
    first = [n for n in asked if n.startswith("preference ")]
    columns = ["method", "seed", *first, *(n for n in asked if n not in first)]
    rows = []
    for e in entries:
        names, points = front_rows(e.front)
        for point in points:
            by_name = {**dict(zip(names, point, strict=True)), "method": e.label, "seed": e.seed}
            rows.append([by_name.get(n) for n in columns])
    return columns, rows


def run_rows(c: Comparison, entries: Sequence[Entry]) -> Rows:
    """Indicators of every run, grouped by method, and by which id W&B knows the run itself."""
    ids = {str(e.path): _wandb_id(e) for e in entries}
    keys = [i.key for i in c.indicators]
    columns = ["method", "seed", *(i.title for i in c.indicators), "front", "W&B id"]
    rows = [
        [r.label, r.seed, *(r.indicators[k] for k in keys), r.path, ids.get(r.path)]
        for g in c.groups
        for r in g.runs
    ]
    return columns, rows


def indicator_rows(c: Comparison) -> Rows:
    """Statistics over the runs of each method, by indicator; best means are marked."""
    percent = f"{100 * c.confidence:g} %"
    columns = ["method", "indicator", "runs", "mean", "std", f"{percent} low", f"{percent} high"]
    rows: list[list[Any]] = []
    for i in c.indicators:
        best = c.best(i.key)
        for g in c.groups:
            s = g.statistics[i.key]
            if s is not None:
                marked = g.label in best
                rows.append([g.label, i.title, s.n, s.mean, s.std, s.low, s.high, marked])
    return [*columns, "best mean"], rows


def pair_rows(c: Comparison) -> Rows:
    """The paired tests on the hypervolume."""
    from frontrunner.front import text

    columns = ["a", "b", "shared seeds", "mean a - b", "low", "high", "p", "p after Holm"]
    rows: list[list[Any]] = []
    for p in c.pairs:
        d = p.difference
        found = [d.mean, d.low, d.high] if d else [None, None, None]
        words = text.verdict(p.significant, p.possible, p.test.p is not None)
        said = [p.test.p, p.adjusted, p.test.method, words, text.budgets(c, p)]
        rows.append([p.a, p.b, len(p.seeds), *found, *said])
    return [*columns, "test", "verdict", "forward passes a : b"], rows


def overlaid(c: Comparison, entries: Sequence[Entry]) -> dict[str, tuple[list[float], list[float]]]:
    """A line for each method over the first two objectives, in their own units: what half of its
    runs attain, and with more than two objectives the points of all of its runs."""
    lines = {}
    for g in c.groups:
        fronts = [e.front for e in entries if e.label == g.label]
        if len(c.objectives) == 2:
            half = attainment.surface([f.minimised for f in fronts]).points
            assert half is not None
            xy = attainment.staircase(half) * fronts[0].signs
        else:
            rows = [row for f in fronts for row in f.values[f.nondominated()][:, :2].tolist()]
            xy = sorted(rows)  # type: ignore[assignment]
        lines[g.label] = ([float(x) for x, _ in xy], [float(y) for _, y in xy])
    return lines


def _wandb_id(e: Entry) -> str | None:
    """A run's W&B id is the hash of its configuration."""
    try:
        record: Any = files.read_json(e.path.parent / RUN)
    except RunError:
        return None
    found = record.get("config_hash") if isinstance(record, Mapping) else None
    return None if found is None else str(found)
