"""CLIP taken apart: the vision model, which is merged, and classifiers made of class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from frontrunner.errors import ConfigError, DataError, first_line
from frontrunner.weights.source import Weights

if TYPE_CHECKING:
    from transformers import CLIPModel

VISION = "vision_model."
_BATCH = 256  # prompts per forward pass


class VisionWeights(Weights):
    """The vision model of a CLIP checkpoint under its published names, ``vision_model.…``.

    The checkpoint may be all of CLIP, or a vision model by itself, whose names have no such prefix
    when version 5 of `transformers` wrote them. Position numbers, which old versions stored, are
    left out.

    Args:
        whole: the checkpoint.

    Raises:
        DataError: it holds no CLIP vision model.
    """

    def __init__(self, whole: Weights) -> None:
        self.whole, self.name, self.folder = whole, whole.name, whole.folder
        found = [key for key in whole.shapes() if not key.endswith(".position_ids")]
        inside = [key for key in found if key.startswith(VISION)]
        self.stored = {VISION + key.removeprefix(VISION): key for key in inside or found}
        if f"{VISION}embeddings.patch_embedding.weight" not in self.stored:
            raise DataError(f"{whole.name} holds no vision model of CLIP")

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes = self.whole.shapes()
        return {key: shapes[stored] for key, stored in self.stored.items()}

    def dtype(self, key: str) -> torch.dtype:
        return self.whole.dtype(self.stored[key])

    def read(self, key: str) -> Tensor:
        return self.whole.read(self.stored[key])

    def digest(self) -> str:
        return self.whole.digest()


class ZeroShot(nn.Module):
    """A CLIP vision model with a frozen classifier for each objective.

    ``forward(pixel_values, k)``: (B, 3, h, w) -> s · cos(image, class) (B, classes of k), s the
    checkpoint's logit scale. What is frozen is held in buffers, so that the parameters are those of
    the vision model.

    Args:
        clip: the whole model, in float32; its vision model becomes part of this module.
        heads: (classes, dim) of unit rows for each objective.
    """

    projection: Tensor
    scale: Tensor

    def __init__(self, clip: CLIPModel, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.vision_model = clip.vision_model
        projection = clip.visual_projection.weight.detach().clone()
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("scale", clip.logit_scale.detach().exp(), persistent=False)
        self.names = [f"head_{k}" for k in range(len(heads))]
        for name, head in zip(self.names, heads, strict=True):
            self.register_buffer(name, head.clone(), persistent=False)

    def forward(self, pixel_values: Tensor, k: int) -> Tensor:
        pooled = self.vision_model(pixel_values=pixel_values).pooler_output
        features = normalize(pooled @ self.projection.T, dim=-1)
        logits: Tensor = self.scale * features @ getattr(self, self.names[k]).T
        return logits


def check_whole(weights: Weights) -> None:
    """Refuse a checkpoint that is not all of CLIP.

    Raises:
        DataError: a tensor of the text encoder or a projection is missing; it is named.
    """
    found = weights.shapes()
    text = "text_model.embeddings.token_embedding.weight"
    for key in ("logit_scale", "text_projection.weight", "visual_projection.weight", text):
        if key not in found:
            raise DataError(
                f"{weights.name} has no '{key}'; task.base must be all of CLIP, text encoder too"
            )


def load_clip(folder: Path) -> CLIPModel:
    """A whole CLIP model from its folder, in float32.

    Raises:
        ConfigError: `transformers` is not installed.
        DataError: `transformers` cannot load it.
    """
    kind = transformers("CLIPModel")
    try:
        whole: CLIPModel = kind.from_pretrained(str(folder)).float().eval()
    except Exception as error:  # of many kinds
        raise DataError(f"{folder} cannot be loaded as a CLIP model: {first_line(error)}") from None
    return whole


@torch.no_grad()
def zero_shot_head(
    clip: CLIPModel, tokenizer: Any, classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """(classes, dim): the mean of a class's prompt embeddings, each and the mean of unit length.

    Source: Radford et al., "Learning transferable visual models from natural language supervision",
    ICML 2021, section 3.1.4.
    """
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    embedded = []
    for start in range(0, len(prompts), _BATCH):
        some = prompts[start : start + _BATCH]
        tokens = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
        pooled = clip.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        embedded.append(normalize(clip.text_projection(pooled), dim=-1))
    means = torch.cat(embedded).unflatten(0, (len(classes), len(templates))).mean(dim=1)
    return normalize(means, dim=-1)


def transformers(name: str) -> Any:
    """A class of `transformers`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError("CLIP needs transformers: pip install frontrunner[hub]") from None
    return getattr(transformers, name)
