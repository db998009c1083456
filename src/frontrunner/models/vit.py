"""A small vision transformer, built with `transformers` from a configuration: nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from frontrunner.errors import ConfigError
from frontrunner.models.networks import Heads


class TinyViT(nn.Module):
    """A ViT for small images: (B, c, h, w) -> tuple of (B, c_i).

    The architecture is that of ViTModel of `transformers` (Dosovitskiy et al., ICLR 2021), without
    its pooler; the heads read the mean of the patches' last hidden states, which learns from few
    images where the class token hardly does.

    Args:
        patch: side of a patch, pixels; divides height and width.
        width: of hidden states; the MLPs are four times as wide.
        depth: number of layers.
        heads: of attention; divides ``width``.

    Raises:
        ConfigError: `transformers` is not installed, or sizes that do not divide each other.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_sizes: Sequence[int],
        patch: int = 2,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(f"a ViT takes images (c, h, w), not inputs of shape {input_shape}")
        channels, height, side = input_shape
        if patch < 1 or height % patch or side % patch:
            raise ConfigError(
                f"model.network.patch={patch} must divide the {height}×{side} pixels of an image"
            )
        if heads < 1 or depth < 1 or width < 1 or width % heads:
            raise ConfigError(
                f"model.network: width={width}, depth={depth} and heads={heads} must be positive, "
                "and heads must divide width"
            )
        transformers = _transformers()
        configuration = transformers.ViTConfig(
            image_size=(height, side),
            patch_size=patch,
            num_channels=channels,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
        )
        self.vit = transformers.ViTModel(configuration, add_pooling_layer=False)
        self.heads = Heads(width, output_sizes)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        hidden: Tensor = self.vit(pixel_values=images).last_hidden_state
        return self.heads(hidden[:, 1:].mean(dim=1))  # the first is the class token


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "model=small_vit needs transformers: pip install frontrunner[hub]"
        ) from None
    return transformers
