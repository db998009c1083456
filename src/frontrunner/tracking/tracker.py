"""Where a run's curves and its front are shown: Weights & Biases, or nowhere.

A tracker is a view for people. The truth is in the run directory (``run.json``, ``front.json``), so
nothing that goes wrong in W&B after the start may end a run: it becomes a warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from frontrunner.errors import ConfigError, nearest

if TYPE_CHECKING:
    from frontrunner.front.front import Front

STEP = "train/step"

# What W&B collects by default and a run directory already has, or nobody asked for. The names that
# begin with x_ are internal to wandb and may go; `_settings` drops those a version does not know.
_LEAN: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class Tracker(Protocol):
    """What the rest of the package may ask of a tracker; use it as a context manager."""

    def check(self) -> None:
        """Fail before any work if this tracker cannot start. Opens nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one row of learning curves at the run's own ``step``."""

    def log_front(
        self,
        front: Front,
        *,
        png: Path | None = None,
        cost: Mapping[str, Any] | None = None,
    ) -> None:
        """Show a front: its points, a scatter plot, its indicators, and what the run cost."""

    def log_pareto_set(self, directory: Path) -> None:
        """Offer the files of a Pareto set for upload."""

    def finish(self, exit_code: int = 0) -> None:
        """Close the run; calling it twice is harmless."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class NoTracker:
    """Tracks nothing, and takes what any tracker takes."""

    def __init__(self, **ignored: Any) -> None:
        pass

    def check(self) -> None:
        """Nothing to check."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_front(
        self,
        front: Front,
        *,
        png: Path | None = None,
        cost: Mapping[str, Any] | None = None,
    ) -> None:
        """Do nothing."""

    def log_pareto_set(self, directory: Path) -> None:
        """Do nothing."""

    def finish(self, exit_code: int = 0) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class WandbTracker:
    """One W&B run, opened on entering the context and closed on leaving it, however it is left.

    Args:
        directory: the run directory; W&B's files go to ``<directory>/wandb``.
        run_id: identity of the run, the same for every attempt (a hash of its configuration).
        name: shown name. group: sweep the run belongs to. job_type: e.g. ``"train"``.
        configuration: the resolved configuration as plain dicts, lists and scalars (not called
            ``config``, which is a parameter of Hydra's ``instantiate`` itself).
        mode: ``"offline"`` (no network is touched) or ``"online"``.
        project, entity, tags: as in W&B.
        artifact: upload the Pareto set as an artifact.
        system_metrics: sample CPU and GPU load.
        init_timeout: seconds to wait for the server at the start, online.
        finish_timeout: seconds to wait for uploads at the end, online; what is left over stays on
            disk for ``wandb sync``.

    Raises:
        ConfigError: an unknown mode; on entering: wandb is not installed, or in online mode there
            is no API key or no server.

    Only rank 0 opens a run; on other ranks every method returns at once.
    """

    # What errors advise.
    instead_of_online = "use logger=wandb (offline)"
    instead_of_wandb = "use logger=none"

    def __init__(
        self,
        *,
        directory: str | os.PathLike[str],
        run_id: str,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        configuration: Mapping[str, Any] | None = None,
        mode: str = "offline",
        project: str = "frontrunner",
        entity: str | None = None,
        tags: Sequence[str] = (),
        artifact: bool = False,
        system_metrics: bool = False,
        init_timeout: float = 20.0,
        finish_timeout: float = 300.0,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ConfigError(f"logger.mode '{mode}'{nearest(mode, ('offline', 'online'))}")
        self.directory = Path(directory)
        self.run_id = run_id
        self.name = name
        self.group = group
        self.job_type = job_type
        self.configuration = dict(configuration or {})
        self.mode = mode
        self.project = project
        self.entity = entity
        self.tags = list(tags)
        self.artifact = artifact
        self.system_metrics = system_metrics
        self.init_timeout = init_timeout
        self.finish_timeout = finish_timeout
        self._run: Any = None

    # ------------------------------------------------------------------ start and end

    def check(self) -> None:
        """Fail before any work if this tracker cannot start. No run is opened, no network is used.

        Raises:
            ConfigError: wandb is not installed; or online mode without an API key, or against the
                environment's WANDB_MODE.
        """
        wandb = _import(self.instead_of_wandb)
        if self.mode == "offline":
            return
        asked = os.environ.get("WANDB_MODE", "online")
        if asked not in ("online", "run"):
            raise ConfigError(
                f"logger.mode is online but WANDB_MODE={asked} is set: unset it, "
                f"or {self.instead_of_online}"
            )
        wandb.setup(settings=wandb.Settings(silent=True))
        # prompt=False: in a terminal wandb would otherwise stop and ask for a key.
        if wandb.run is None and not wandb.login(prompt=False, verify=False):
            raise ConfigError(
                "W&B has no API key: run `wandb login`, "
                f"or {self.instead_of_online}, or {self.instead_of_wandb}"
            )

    def __enter__(self) -> Self:
        if not is_rank_zero() or self._run is not None:
            return self
        self.check()
        wandb = _import()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                dir=str(self.directory),
                id=self.run_id,
                name=self.name,
                group=self.group,
                job_type=self.job_type,
                config=self.configuration,
                mode=self.mode,
                project=self.project,
                entity=self.entity,
                tags=self.tags,
                resume="allow" if self.mode == "online" else None,
                # By default init() hands back whatever run is still open, with that run's
                # configuration; this one always makes its own and leaves others alone.
                reinit="create_new",
                settings=_settings(
                    wandb,
                    x_disable_stats=not self.system_metrics,
                    init_timeout=self.init_timeout,
                    finish_timeout=self.finish_timeout if self.mode == "online" else 0.0,
                ),
            )
        except Exception as error:  # wandb raises its own, its service's and pydantic's errors
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if self.mode == "online":
                raise ConfigError(
                    f"W&B is not reachable ({reason}); {self.instead_of_online}, "
                    f"or {self.instead_of_wandb}"
                ) from error
            raise ConfigError(f"W&B could not start ({reason}); {self.instead_of_wandb}") from error
        # A resumed offline run counts W&B's own _step from 0 again; curves need the run's step.
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        clean = error is None or (isinstance(error, SystemExit) and not error.code)
        self.finish(0 if clean else 1)

    def finish(self, exit_code: int = 0) -> None:
        """Close the run with an exit code; calling it twice is harmless."""
        run, self._run = self._run, None
        if run is not None:
            _guarded(run.finish, exit_code=exit_code)

    # ------------------------------------------------------------------ what is shown

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one row of learning curves, e.g. ``{"validation/hypervolume": 0.8}``, at ``step``.

        Curves are drawn over ``train/step``, which is ``step``, so that they stay whole when a run
        is resumed.
        """
        if self._run is not None:
            row = {key: float(value) for key, value in metrics.items()}
            _guarded(self._run.log, {**row, STEP: int(step)})

    def log_front(
        self,
        front: Front,
        *,
        png: Path | None = None,
        cost: Mapping[str, Any] | None = None,
    ) -> None:
        """Show a front.

        Logs ``front/table``, ``front/scatter`` of the first two objectives, ``front/plot`` if a
        PNG is given, and into the summary ``front/<indicator>``, ``front/reference_point`` and
        ``cost/<key>`` for each entry of ``cost`` (the cost of the run, as in ``run.json``).
        """
        if self._run is not None:
            _guarded(self._log_front, front, dict(cost or {}))
            if png is not None:
                _guarded(self._log_image, Path(png))

    def log_pareto_set(self, directory: Path) -> None:
        """Upload a Pareto set's directory as artifact ``pareto-set-<run id>``, if configured to;
        Gram matrices stay here."""
        if self._run is not None and self.artifact:
            _guarded(self._log_artifact, Path(directory))

    def _log_front(self, front: Front, cost: dict[str, Any]) -> None:
        wandb = _import()
        columns, rows = front_rows(front)
        x, y = front.objectives[:2]
        table = wandb.Table(columns=columns, data=rows)
        scatter = wandb.plot.scatter(table, x.name, y.name, title=f"{y.label} over {x.label}")
        # A table belongs to one key; the scatter plot carries its own copy.
        self._run.log({"front/table": wandb.Table(columns=columns, data=rows)})
        self._run.log({"front/scatter": scatter})
        summary = {
            f"front/{key}": value for key, value in _flat(front.indicators()) if value is not None
        }
        if front.reference_point is not None:
            summary["front/reference_point"] = front.reference_point.tolist()
        summary["front/points"] = len(front)
        summary |= {f"cost/{key}": value for key, value in cost.items() if value is not None}
        self._run.summary.update(summary)

    def _log_image(self, png: Path) -> None:
        self._run.log({"front/plot": _import().Image(str(png))})

    def _log_artifact(self, directory: Path) -> None:
        artifact = _import().Artifact(f"pareto-set-{self.run_id}", type="pareto_set")
        # "immutable": take the files where they lie instead of copying them to the home directory.
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            # Gram matrices are larger than the models, and serve refits alone.
            if not path.match("*-grams-*.safetensors"):
                name = path.relative_to(directory).as_posix()
                artifact.add_file(str(path), name=name, policy="immutable")
        self._run.log_artifact(artifact)


def front_rows(front: Front) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a front's table, one row per point in the front's order.

    Columns: ``preference <objective>`` for what each entry of a preference asks for, each objective
    by its plain name (plots read brackets and dots in a column name as a path), ``dominated``,
    ``cost seconds``. Unknown preferences and costs are None.
    """
    names = [o.name for o in front.objectives]
    asked = [f"preference {name}" for name in front.asked_for]
    columns = [*asked, *names, "dominated", "cost seconds"]
    mask = front.nondominated()
    rows: list[list[Any]] = []
    for i, values in enumerate(front.values):
        preference = [None] * len(asked) if front.preferences is None else front.preferences[i]
        seconds = front.costs[i].get("seconds") if front.costs else None
        rows.append(
            [
                *(None if p is None else float(p) for p in preference),
                *(float(v) for v in values),
                not bool(mask[i]),
                None if seconds is None else float(seconds),
            ]
        )
    return columns, rows


def is_rank_zero() -> bool:
    """Whether this process may write for the whole job: no rank in the environment is above 0."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(rank in (None, "", "0") for rank in ranks)


def _import(otherwise: str = "use logger=none") -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"wandb cannot be imported ({error}): install wandb, or {otherwise}"
        ) from None
    return wandb


def _settings(wandb: Any, **more: Any) -> Any:
    known = wandb.Settings.model_fields
    return wandb.Settings(**{k: v for k, v in {**_LEAN, **more}.items() if k in known})


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}/")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _guarded(call: Callable[..., Any], *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except Exception as error:
        warnings.warn(
            f"W&B: {type(error).__name__}: {error}; the run goes on without it",
            RuntimeWarning,
            stacklevel=3,
        )
