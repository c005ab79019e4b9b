"""What the attention models share: the sinusoidal code of time, and the encoder layers."""

from __future__ import annotations

import math

import torch
from torch import nn

from moola.errors import ConfigError


def sinusoidal_positions(num_steps: int, width: int) -> torch.Tensor:
    """Return the position code of Vaswani et al. (2017), shape (T, width)."""
    place = torch.arange(num_steps, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    code = torch.zeros(num_steps, width)
    code[:, 0::2] = torch.sin(place * rate)
    code[:, 1::2] = torch.cos(place * rate[: width // 2])
    return code


def transformer(width: int, *, num_heads: int, num_layers: int, dropout: float) -> nn.Module:
    """Return encoder layers (Vaswani et al., 2017), normalised first, four times `width` inside."""
    if width % num_heads:
        raise ConfigError(
            f"num_heads is {num_heads}",
            limit=f"a divisor of the width, {width}",
            remedy="Change num_heads or the width",
        )
    layer = nn.TransformerEncoderLayer(
        width, num_heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
