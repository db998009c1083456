"""LoRA adapters in the format of ``peft``: read as weights of their own, and written."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frontrunner.errors import DataError
from frontrunner.weights.files import Safetensors
from frontrunner.weights.source import Weights
from frontrunner.weights.writer import layout_of, write_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONFIG = "adapter_config.json"
FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?")
# Options under which the weights are not base + scale · B A.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Initialisations that leave the base as it is; others (PiSSA, OLoRA, …) subtract from it.
_PLAIN_INITIALISATIONS = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Update:
    """``scale · B A`` for one tensor of the base; ``down`` and ``up`` are the names of A and B."""

    down: str
    up: str
    scale: float
    transposed: bool


class Adapter(Weights):
    """A base and a LoRA adapter of it: W + s · B A, made one tensor at a time when it is read.

    Source: Hu et al., "LoRA", ICLR 2022, §4.1, with s = α/r, or α/√r under ``use_rslora``
    (Kalajdzievski, arXiv:2312.03732). A is (r, in) and B is (out, r). Sums are in float32 (float64
    if the base is), results in the base's dtype. Tensors that the adapter replaces as a whole
    (``modules_to_save``, biases) are its own.

    Args:
        path: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: the model it was trained on.
        name: what messages and records call it; its path by default.

    Raises:
        DataError: damaged files, an option that is not plain LoRA, or an adapter of another base:
            a tensor the base has not, or shapes that do not multiply.
    """

    def __init__(
        self, path: str | os.PathLike[str], base: Weights, name: str | None = None
    ) -> None:
        folder = Path(path)
        self.folder, self.base, self.name = folder, base, name or str(path)
        self.config = _read_config(folder)
        if not (folder / FILE).is_file():
            raise DataError(
                f"{folder} has no {FILE}; pickled adapters are not opened: save it again with "
                "save_pretrained of peft"
            )
        self.adapter = Safetensors(folder / FILE)
        self.updates: dict[str, Update] = {}
        self.replaced: dict[str, str] = {}
        self._assign()
        self._warn_of_another_base()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        own = self.adapter.shapes()
        return {
            key: own[self.replaced[key]] if key in self.replaced else tuple(shape)
            for key, shape in self.base.shapes().items()
        }

    def dtype(self, key: str) -> torch.dtype:
        return self.base.dtype(key)

    def read(self, key: str) -> Tensor:
        import torch

        dtype = self.dtype(key)
        if key in self.replaced:
            tensor = self.adapter.read(self.replaced[key])
        else:
            tensor = self.base.read(key)
        update = self.updates.get(key)
        if update is not None:
            working = torch.float64 if dtype == torch.float64 else torch.float32
            down = self.adapter.read(update.down).to(working).flatten(1)
            up = self.adapter.read(update.up).to(working).flatten(1)
            # A view in the base's layout; addmm adds to it without another copy of the product.
            flat = tensor.to(working).flatten(1)
            flat = flat.T if update.transposed else flat
            tensor = torch.addmm(flat, up, down, alpha=update.scale)
            tensor = (tensor.T if update.transposed else tensor).reshape(self.shapes()[key])
        return tensor.to(dtype).contiguous()

    def digest(self) -> str:
        """16 hex digits of the base's digest, the adapter's (see `Safetensors.digest`) and the
        scales."""
        h = hashlib.sha256(f"{self.base.digest()} {self.adapter.digest()}".encode())
        for key, update in sorted(self.updates.items()):
            h.update(f"{key} {update.scale!r} {update.transposed}".encode())
        return h.hexdigest()[:16]

    # ------------------------------------------------------------------ which tensor is changed

    def _assign(self) -> None:
        """Fill `updates` and `replaced` from the names in the adapter's file."""
        pairs: dict[str, dict[str, str]] = {}
        embeddings = set()
        for own in self.adapter.shapes():
            key = own.removeprefix(_PREFIX)
            factor = _FACTOR.fullmatch(key)
            if factor:
                module, embedding, side = factor.groups()
                pairs.setdefault(module, {})[side] = own
                if embedding:
                    embeddings.add(module)
            elif "lora_" in key:
                raise DataError(f"{self.name} has '{own}', which is no factor of plain LoRA")
            else:
                self.replaced[self._target(key.replace(".base_layer.", "."), own)] = own
        if not pairs:
            raise DataError(f"{self.adapter.name} has no lora_A and lora_B tensors")
        for module, pair in pairs.items():
            if set(pair) != {"A", "B"}:
                have, lack = ("A", "B") if "A" in pair else ("B", "A")
                raise DataError(
                    f"{self.adapter.name} has lora_{have} of '{module}' and no lora_{lack}"
                )
            target = self._target(f"{module}.weight", pair["A"])
            self.updates[target] = self._update(target, module, pair, module in embeddings)

    def _target(self, key: str, own: str) -> str:
        """The base's name of a tensor. A checkpoint may be of the model inside the one that was
        trained (``h.0`` for ``transformer.h.0``), or the other way round."""
        shapes = self.base.shapes()
        inner = key.partition(".")[2]
        if key in shapes:
            return key
        if inner in shapes:
            return inner
        outer = [name for name in shapes if name.endswith(f".{key}")]
        if len(outer) == 1:
            return outer[0]
        raise DataError(
            f"{self.name} is an adapter of another base: it changes '{key}' (its '{own}'), which "
            f"{self.base.name} has not{_tied(key)}"
        )

    def _update(self, target: str, module: str, pair: dict[str, str], embedding: bool) -> Update:
        own, shape = self.adapter.shapes(), self.shapes()[target]
        down, up = own[pair["A"]], own[pair["B"]]
        rank = down[0]
        product = (up[0], math.prod(down[1:]))
        wanted = (*shape[:1], math.prod(shape[1:]))
        if len(up) < 2 or up[1] != rank or not rank:
            raise DataError(f"{self.name}: lora_A {down} and lora_B {up} of '{module}' differ in r")
        # What is stored (in, out) is decided by shape where it can be: the flag is one for all.
        orientations = [True, False] if embedding or self.config["fan_in_fan_out"] else [False]
        for transposed in orientations:
            if len(shape) > 1 and (product[::-1] if transposed else product) == wanted:
                alpha = _matching(self.config["alpha_pattern"], module, self.config["lora_alpha"])
                root = math.sqrt(rank) if self.config["use_rslora"] else rank
                return Update(pair["A"], pair["B"], alpha / root, transposed)
        raise DataError(
            f"{self.name} is an adapter of another base: its change of '{target}' is "
            f"{product[0]} × {product[1]}, and {self.base.name} has {tuple(shape)}"
        )

    def _warn_of_another_base(self) -> None:
        said = str(self.config.get("base_model_name_or_path") or "")
        names = (self.base.name, *([str(self.base.folder)] if self.base.folder else []))
        if said and Path(said).name not in [Path(n.partition("@")[0]).name for n in names]:
            warnings.warn(
                f"{self.name} says it is an adapter of '{said}', and is used with {self.base.name}",
                stacklevel=3,
            )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("peft_type", "LORA")
    except (OSError, ValueError, AttributeError):
        raise DataError(f"{path} is not readable as JSON; fetch it again") from None
    if kind != "LORA":
        raise DataError(f"{path}: peft_type {kind} is not supported; only LORA adapters are")
    defaults = {"fan_in_fan_out": False, "use_rslora": False, "alpha_pattern": {}, "lora_alpha": 8}
    for option in _UNSUPPORTED:
        if config.get(option):
            raise DataError(f"{path}: {option} is not supported; merge it with peft beforehand")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _PLAIN_INITIALISATIONS:
        raise DataError(
            f"{path}: init_lora_weights '{start}' changes the base; save the adapter with "
            "path_initial_model_for_weight_conversion of peft, or merge it with peft beforehand"
        )
    return defaults | {key: value for key, value in config.items() if value is not None}


def _matching(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """peft's rule: the first pattern that matches the end of a module's name."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _tied(key: str) -> str:
    if key.partition(".")[0] != "lm_head":
        return ""
    return "; an output layer tied to the embedding cannot be changed by itself"


# ---------------------------------------------------------------------- writing


def save_adapter(
    folder: str | os.PathLike[str],
    factors: Iterable[tuple[str, Tensor, Tensor]],
    base_name: str,
    *,
    task_type: str | None = None,
    fan_in_fan_out: bool = False,
) -> None:
    """Write low-rank changes of a base so that ``PeftModel.from_pretrained`` loads them.

    Each layer keeps its own rank r, and has α = r, so that what is added is ``left @ right``. The
    folder is written into; whether it becomes visible only when whole is the caller's part.

    Args:
        folder: gets ``adapter_config.json`` and ``adapter_model.safetensors``.
        factors: name of a layer or of its weight, left (out, r), right (r, in), of a convolution
            right (r, in, height, width). Layers of rank 0 are left out.
        base_name: what the adapter is added to, a hub id or a folder.
        task_type: of peft, e.g. ``CAUSAL_LM``; lets ``AutoPeftModel`` find the class.
        fan_in_fan_out: the base stores weights (in, out), as GPT-2's ``Conv1D``; factors are then
            left (in, r), right (r, out).

    Raises:
        DataError: factors that do not multiply, a layer given twice, or no layer of rank above 0.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module, left, right in _checked(factors):
        if fan_in_fan_out:
            left, right = right.T, left.T
        if module in ranks:
            raise DataError(f"layer '{module}' is given twice")
        ranks[module] = right.shape[0]
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = right
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = left[(...,) + (None,) * (right.ndim - 2)]
    if not ranks:
        raise DataError("there is no layer of rank above 0: an adapter would change nothing")
    common = Counter(ranks.values()).most_common(1)[0][0]
    # Patterns are regular expressions that peft anchors at the end only.
    others = {f"^{re.escape(name)}": r for name, r in ranks.items() if r != common}
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_file(target / FILE, iter(tensors.items()), layout_of(tensors))
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _checked(
    factors: Iterable[tuple[str, Tensor, Tensor]],
) -> Iterator[tuple[str, Tensor, Tensor]]:
    for name, left, right in factors:
        if left.ndim != 2 or right.ndim not in (2, 4) or left.shape[1] != right.shape[0]:
            raise DataError(
                f"factors {tuple(left.shape)} and {tuple(right.shape)} of '{name}' do not multiply"
            )
        if right.shape[0]:
            yield name.removesuffix(".weight"), left, right
