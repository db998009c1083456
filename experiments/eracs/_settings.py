"""Tasks of the coreset experiments, and the methods that are run on each."""

from __future__ import annotations

from dataclasses import dataclass

ALL_BUDGETS = (0.05, 0.1, 0.2)
AUDIT = ["method.audit=3"]  # the true gradient gap; not part of the cost
ERACS = {
    "ERACS, SNR fell by 30 %": ["method=coresets/eracs", *AUDIT],
    "ERACS, SNR below 0.3": ["method=coresets/eracs", "method.trigger=absolute_below", *AUDIT],
    "ERACS, SNR above 0.3": ["method=coresets/eracs", "method.trigger=absolute_above", *AUDIT],
    "loss fell by 90 %": [
        "method=coresets/gradmatch",
        "method.trigger=loss",
        "method.threshold=0.9",
        "method.every=3",
        *AUDIT,
    ],
}
FEW = {
    "GradMatch every 3 epochs": ["method=coresets/gradmatch", "method.every=3"],
    "the same of 3 times as many, at random": [
        "method=coresets/gradmatch",
        "method.every=3",
        "method.candidates=3",
    ],
    "GradMatch every epoch of twice as many, at random": [
        "method=coresets/gradmatch",
        "method.every=1",
        "method.candidates=2",
    ],
    "ERACS, SNR below 0.3, of 3 times as many": [
        "method=coresets/eracs",
        "method.trigger=absolute_below",
        "method.candidates=3",
        *AUDIT,
    ],
}
FIXED = {
    "random, fixed": ["method=coresets/random"],
    "random, drawn every epoch": ["method=coresets/random", "method.trigger=interval"],
    "k-centre": ["method=coresets/kcenter"],
    "CRAIG": ["method=coresets/craig"],
    "GLISTER": ["method=coresets/glister"],
    "GradMatch every 20 epochs": ["method=coresets/gradmatch"],
}
METHODS = {
    **FIXED,
    "GradMatch per batch": ["method=coresets/gradmatch", "method.variant=per_batch"],
    "GradMatch every 5 epochs": ["method=coresets/gradmatch", "method.every=5"],
    **FEW,
    **ERACS,
}
PEAK = {
    "ERACS, SNR fell by 30 % from its peak": [
        "method=coresets/eracs",
        "method.trigger=peak_drop",
        *AUDIT,
    ]
}


def _faster(methods: dict[str, list[str]], every: int) -> dict[str, list[str]]:
    """The same methods with another interval, of checks or of selections."""
    return {
        label: [*(w for w in words if not w.startswith("method.every=")), f"method.every={every}"]
        for label, words in methods.items()
    }


@dataclass(frozen=True)
class Setting:
    """A task, and what is run on it.

    Attributes:
        words: overrides.
        methods: rows of ``methods``.
        triggers: those of them that ``timing`` compares with other times.
        bought: those of them that ``equal_cost`` compares with random samples.
        budgets: shares of the data.
        full_seeds: of training on all data, at most.
    """

    words: tuple[str, ...]
    methods: dict[str, list[str]]
    triggers: tuple[str, ...]
    bought: tuple[str, ...]
    budgets: tuple[float, ...] = ALL_BUDGETS
    full_seeds: int = 5


_BY_SNR = {k: v for k, v in ERACS.items() if "SNR" in k} | PEAK
_SIDE = {
    **FIXED,
    **{k: v for k, v in FEW.items() if "SNR" not in k},
    **_BY_SNR,
}
_SHORT = {
    **{k: v for k, v in FIXED.items() if "random" in k},
    **_faster({"GradMatch every 5 epochs": ["method=coresets/gradmatch"]}, 5),
    **_faster({"GradMatch every 2 epochs": ["method=coresets/gradmatch"]}, 2),
    **_faster(_BY_SNR, 2),
}
_BOUGHT = (
    "GradMatch every 20 epochs",
    "GradMatch every 3 epochs",
    "the same of 3 times as many, at random",
)
_LOW = (0.05, 0.1)
SETTINGS = {
    "digits": Setting(
        ("task=digits_full",), METHODS, tuple(ERACS), ("GradMatch every 20 epochs", *FEW, *ERACS)
    ),
    "digits_noisy": Setting(
        ("task=digits_full", "task.label_noise=0.2", "training.steps=1500"),
        _SIDE,
        tuple(_BY_SNR),
        (*_BOUGHT, *_BY_SNR),
        _LOW,
    ),
    "digits_rare": Setting(
        ("task=digits_full", "task.imbalance=0.02", "training.steps=1500"),
        _SIDE,
        tuple(_BY_SNR),
        (*_BOUGHT, *_BY_SNR),
        _LOW,
    ),
    "digits_short": Setting(
        ("task=digits_full", "training.steps=750"),
        _SHORT,
        tuple(_BY_SNR),
        ("GradMatch every 5 epochs", "GradMatch every 2 epochs", *_BY_SNR),
        _LOW,
    ),
    # 20 epochs of a ResNet that is small enough for hundreds of trainings on one core.
    "mnist": Setting(
        (
            "task=mnist_images",
            "model.network.widths=[8,16,32]",
            "model.network.stem_stride=4",
            "training.steps=2375",
        ),
        _SHORT,
        tuple(_BY_SNR),
        ("GradMatch every 5 epochs", "GradMatch every 2 epochs", *_BY_SNR),
        full_seeds=2,
    ),
}
