"""A coreset through training: what it is now, when it was chosen, and what was measured on the
way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from frontrunner.coresets.gradients import LastLayer
from frontrunner.coresets.pool import Pool
from frontrunner.coresets.select import TARGETS, Selector, View
from frontrunner.coresets.snr import DEFINITIONS, snr
from frontrunner.coresets.trigger import Trigger
from frontrunner.errors import ConfigError, RunError, nearest
from frontrunner.seeds import generator

WEIGHTINGS = ("loss", "sampling")
SOURCES = ("pass", "training")


class Coreset:
    """A part of the data that is chosen at the start of training, and again when a trigger says so.

    `begin` is called at the start of each epoch, an epoch being one pass over the coreset. What it
    does follows from the network, the state and (seed, epoch) alone, so a resumed run chooses as an
    uninterrupted one would have.

    Args:
        selector: what to choose; None takes all of the data.
        trigger: when to choose again.
        budget: share of the samples, above 0 and at most 1.
        epochs: their number.
        seed: of everything random.
        preference: λ over the task's objectives.
        target: see `View`.
        snr: definition of the signal-to-noise ratio, see `frontrunner.coresets.snr`.
        snr_weighted: whether the selection's weights count in it.
        snr_samples: compute it on no more than so many samples of the coreset, evenly taken.
        snr_from: what it is computed from: a forward ``pass`` over the coreset, or the gradients of
            the epoch of ``training`` before, see `frontrunner.coresets.watch`.
        candidates: choose among so many times the coreset's size of samples, drawn at random for
            each selection; None chooses among all.
        weighting: how weights act: on the ``loss``, or on how often a sample is drawn
            (``sampling``).
        warm: share of the epochs at the start that go through all of the data instead, in pieces as
            large as the coreset.
        audit: measure 1 − cos(∇ of all data, ∇ of the coreset) every so many epochs, and beside an
            SNR from training that of a pass; 0 never.

    Raises:
        ConfigError: a setting out of its range.
    """

    def __init__(
        self,
        selector: Selector | None,
        trigger: Trigger,
        budget: float,
        epochs: int,
        seed: int,
        *,
        preference: Sequence[float] = (1.0,),
        target: str = "weighted",
        snr: str = "spectral",
        snr_weighted: bool = False,
        snr_samples: int | None = None,
        snr_from: str = "pass",
        candidates: float | None = None,
        weighting: str = "loss",
        warm: float = 0.0,
        audit: int = 0,
    ) -> None:
        check_budget(budget)
        for name, value, valid in (
            ("target", target, TARGETS),
            ("snr", snr, DEFINITIONS),
            ("snr_from", snr_from, SOURCES),
            ("weighting", weighting, WEIGHTINGS),
        ):
            if value not in valid:
                raise ConfigError(f"method.{name}={value} is unknown{nearest(str(value), valid)}")
        if snr_samples is not None and snr_samples < 2:
            raise ConfigError(f"method.snr_samples={snr_samples} must be at least 2, or null")
        if candidates is not None and not candidates >= 1:
            raise ConfigError(f"method.candidates={candidates} must be at least 1, or null")
        if not 0 <= warm < 1:
            raise ConfigError(f"method.warm={warm} must be at least 0 and less than 1")
        if not isinstance(audit, int) or audit < 0:
            raise ConfigError(f"method.audit={audit} must be a whole number of at least 0")
        self.selector, self.trigger, self.budget = selector, trigger, budget
        self.epochs, self.seed = epochs, seed
        self.view = View(tuple(preference), target)
        self.snr, self.snr_weighted, self.snr_samples = snr, snr_weighted, snr_samples
        self.snr_from, self.candidates = snr_from, candidates
        self.weighting, self.warm, self.audit = weighting, warm, audit
        self.reset()

    def reset(self) -> None:
        """Forget all that was chosen and measured, for another training."""
        self.epoch = -1
        self.size = 0
        self.indices: Tensor | None = None
        self.weights: Tensor | None = None
        self.history: list[dict[str, Any]] = []
        self.watched: dict[str, Any] = {}
        self.seconds = {"select": 0.0, "check": 0.0, "audit": 0.0}
        self.passes = {"select": 0, "check": 0, "audit": 0}

    def count(self, size: int) -> int:
        """Samples of the coreset, of ``size`` in all."""
        return size if self.selector is None else max(1, round(self.budget * size))

    @property
    def first(self) -> int:
        """The epoch of the first selection."""
        return max(0, min(round(self.warm * self.epochs), self.epochs - 1))

    @property
    def updates(self) -> int:
        """Selections after the first."""
        return max(0, sum(bool(entry["selected"]) for entry in self.history) - 1)

    @property
    def checks(self) -> int:
        """How often the trigger looked at the coreset."""
        return sum(bool(entry["checked"]) for entry in self.history)

    # ------------------------------------------------------------------ epochs

    def check(self, pool: Pool) -> None:
        """Fail before training where this cannot work.

        Raises:
            ConfigError: too few samples for the classes, no last linear layer, no validation data.
            RunError: the data are not as many as in the state that was loaded, or the coreset.
        """
        _same_size(self.size, pool.size)
        self.size = pool.size
        if self.selector is None:
            return
        count = self.count(pool.size)
        if self.indices is not None and len(self.indices) != count:
            raise RunError(
                f"the checkpoint's coreset has {len(self.indices)} samples, and "
                f"method.budget={self.budget} asks for {count}: keep the budget, or start again"
            )
        least = self.selector.smallest(pool)
        if count < least:
            kind = " (combinations of labels)" if pool.columns > 1 else ""
            raise ConfigError(
                f"method.budget={self.budget} of {pool.size} samples is {count}, fewer than the "
                f"{least} classes{kind}; set method.budget to at least {least / pool.size:.3g}"
                f"{self.selector.instead}"
            )
        if self.selector.validates and (pool.validation is None or pool.validation.size == 0):
            raise ConfigError("this selection needs validation data, and there are none")
        if self.selector.looks or self.trigger.measures or self.audit:
            self.view.of(pool.last_layer(torch.arange(min(2, pool.size))))

    def begin(self, epoch: int, pool: Pool) -> bool:
        """Look at the coreset if it is time, and choose again if the trigger says so; returns
        whether it did. An epoch that has begun already is left as it is."""
        if epoch == self.epoch:
            return False
        self.epoch, self.size = epoch, pool.size
        if self.selector is None or epoch < self.first:
            return False
        entry: dict[str, Any] = {"epoch": epoch, "checked": False, "selected": False}
        wanted = self.indices is None
        if not wanted and self.trigger.due(epoch, self.first, self.epochs, self.seed):
            wanted = True
            if self.trigger.measures:
                seen = self.watched.get("epoch") == epoch
                measured = self.watched["measured"] if seen else self._measure(pool)
                entry |= {"checked": True, **measured}
                before = self._before()
                wanted = self.trigger.fires(measured["snr"], before[0], measured["loss"], before[1])
        auditing = self.audit > 0 and (epoch - self.first) % self.audit == 0
        if auditing and self.indices is not None:
            if "snr" not in entry:
                entry |= self._measure(pool, "audit")
            elif self.watched.get("epoch") == epoch:
                entry["snr_pass"] = self._measure(pool, "audit")["snr"]
            entry["gap"] = self._gap(pool)
        if wanted:
            self._select(epoch, pool, entry)
            if auditing:
                entry["gap_after"] = self._gap(pool)
        if len(entry) > 3:
            self.history.append(entry)
        return wanted

    def watches(self, epoch: int) -> bool:
        """Whether gradients of this epoch's training are what the next one is checked by."""
        return (
            self.snr_from == "training"
            and self.indices is not None
            and self.trigger.measures
            and epoch + 1 < self.epochs
            and self.trigger.due(epoch + 1, self.first, self.epochs, self.seed)
        )

    def watch(self, epoch: int, seen: LastLayer, weights: Tensor, pool: Pool) -> None:
        """What `watches` asked for: last-layer gradients of the samples that this epoch was trained
        on, and their weights (n,).

        Raises:
            DivergenceError: one of them is not finite.
        """
        pool.finite(seen)
        measured = self._ratios(seen, weights if self.snr_weighted else None, pool)
        self.watched = {"epoch": epoch + 1, "measured": measured}

    def order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Samples of an epoch in their order, (k,), and their weights in the loss, (k,)."""
        count = self.count(self.size)
        if self.indices is None:
            return self._through_all(epoch, count), torch.ones(count)
        assert self.weights is not None
        draw = generator(self.seed, "order", epoch)
        if self.weighting == "loss":
            shuffled = torch.randperm(count, generator=draw)
            return self.indices[shuffled], self.weights[shuffled]
        # Systematic sampling: each index comes floor or ceiling of its weight times.
        ends = self.weights.double().cumsum(0)
        ends = ends * (count / ends[-1])
        points = torch.arange(count, dtype=torch.float64)
        points = points + torch.rand((), generator=draw, dtype=torch.float64)
        chosen = torch.searchsorted(ends, points).clamp_max(count - 1)
        chosen = chosen[torch.randperm(count, generator=draw)]
        return self.indices[chosen], torch.ones(count)

    def _through_all(self, epoch: int, count: int) -> Tensor:
        """The epoch-th piece of an endless sequence of permutations of all samples."""
        start, pieces = epoch * count, []
        while count > 0:
            lap, position = divmod(start, self.size)
            order = torch.randperm(self.size, generator=generator(self.seed, "lap", lap))
            piece = order[position : position + count]
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return torch.cat(pieces)

    # ------------------------------------------------------------------ measuring and choosing

    def _before(self) -> tuple[list[float], list[float]]:
        """Signal-to-noise ratios and losses that the trigger compares with."""
        last = max(i for i, entry in enumerate(self.history) if entry["selected"])
        snrs = [self.history[last].get("snr_after", [])]
        if self.trigger.rule == "peak_drop":  # not those of an audit, which must decide nothing
            snrs += [entry["snr"] for entry in self.history[last + 1 :] if entry["checked"]]
        return [max(of) for of in zip(*snrs, strict=True)], self.history[last].get("loss_after", [])

    def _measure(self, pool: Pool, purpose: str = "check") -> dict[str, list[float]]:
        """Signal-to-noise ratio and loss of each objective on the coreset."""
        assert self.indices is not None
        assert self.weights is not None
        start, before = time.perf_counter(), pool.passes
        k = len(self.indices)
        some = torch.arange(k)
        if self.snr_samples is not None and self.snr_samples < k:
            some = torch.linspace(0, k - 1, self.snr_samples).round().long()
        seen = pool.last_layer(self.indices[some])
        weights = self.weights[some].to(seen.features[0].device) if self.snr_weighted else None
        measured = self._ratios(seen, weights, pool)
        self.seconds[purpose] += time.perf_counter() - start
        self.passes[purpose] += pool.passes - before
        return measured

    def _ratios(
        self, seen: LastLayer, weights: Tensor | None, pool: Pool
    ) -> dict[str, list[float]]:
        ratios = [snr(seen.objective(j), self.snr, weights) for j in range(seen.m)]
        losses = seen.losses.tolist()
        # What decides must not differ between processes: they look again together, or none does.
        agreed = pool.agreed(torch.tensor([ratios, losses], dtype=torch.float64)).tolist()
        return {"snr": agreed[0], "loss": agreed[1]}

    def _select(self, epoch: int, pool: Pool, entry: dict[str, Any]) -> None:
        assert self.selector is not None
        start = time.perf_counter()
        before = pool.passes + (pool.validation.passes if pool.validation else 0)
        draw, count = generator(self.seed, "select", epoch), self.count(pool.size)
        among = pool.size if self.candidates is None else round(self.candidates * count)
        if among >= pool.size:
            chosen = self.selector.select(pool, count, self.view, draw)
            indices = chosen.indices.cpu()
        else:
            drawn = torch.randperm(pool.size, generator=draw)[:among]
            candidates = pool.among(drawn)
            chosen = self.selector.select(candidates, count, self.view, draw)
            indices = drawn[chosen.indices.cpu()]
            pool.passes += candidates.passes
        self.indices = pool.agreed(indices)
        self.weights = pool.agreed(chosen.weights.float().cpu())
        after = pool.passes + (pool.validation.passes if pool.validation else 0)
        self.seconds["select"] += time.perf_counter() - start
        self.passes["select"] += after - before
        w = self.weights.double()
        entry |= {
            "selected": True,
            "filled": chosen.filled,
            "effective": float(w.sum() ** 2 / w.square().sum()),
        }
        if self.trigger.compares:
            measured = self._measure(pool)
            entry |= {"snr_after": measured["snr"], "loss_after": measured["loss"]}

    def _gap(self, pool: Pool) -> float:
        """1 − cos of the mean gradient of all samples and the coreset's weighted one."""
        assert self.indices is not None
        assert self.weights is not None
        start, before = time.perf_counter(), pool.passes
        gradients = self.view.of(pool.last_layer())
        everything = gradients.mean()
        chosen = gradients[self.indices.to(everything.device)].mean(self.weights)
        cosine = torch.nn.functional.cosine_similarity(everything, chosen, dim=0)
        self.seconds["audit"] += time.perf_counter() - start
        self.passes["audit"] += pool.passes - before
        return 1.0 - float(cosine)

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; tensors and plain values."""
        return {
            "epoch": self.epoch,
            "size": self.size,
            "indices": self.indices,
            "weights": self.weights,
            "history": [dict(entry) for entry in self.history],
            "watched": dict(self.watched),
            "seconds": dict(self.seconds),
            "passes": dict(self.passes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            RunError: the data are not as many as they were.
        """
        _same_size(state["size"], self.size)
        self.epoch, self.size = state["epoch"], state["size"]
        self.indices, self.weights = state["indices"], state["weights"]
        self.history, self.watched = list(state["history"]), dict(state.get("watched", {}))
        self.seconds, self.passes = dict(state["seconds"]), dict(state["passes"])


def _same_size(before: int, now: int) -> None:
    """Both may be 0, for not known yet."""
    if before and now and before != now:
        raise RunError(
            f"the data have {now} samples, and had {before} when the coreset was chosen: start "
            "again with the data as they are now"
        )


def check_budget(budget: float) -> None:
    """Refuse a share of the data that is none.

    Raises:
        ConfigError: not above 0 and at most 1.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise ConfigError(f"method.budget={budget} must be above 0 and at most 1")
