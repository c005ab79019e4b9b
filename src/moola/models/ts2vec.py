"""TS2Vec's encoder (Yue et al., AAAI 2022): a linear layer, then dilated convolutions.

Every bar gets a representation of its own; a window's is their maximum over time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from moola.config.base import check_count, check_range

_KERNEL = 3


class TS2VecEncoder(nn.Module):
    """Encoder from series to one vector a step, with the paper's shape as default.

    Parameters
    ----------
    input_dim
        Channels of a step; 4 for OHLC bars.
    hidden_dim
        Channels inside.
    output_dim
        Length of a representation.
    depth
        Residual blocks of `hidden_dim` channels, block l with dilation 2**l; one more, with
        dilation 2**depth, leads to `output_dim`.
    dropout
        Of the representations, while training.
    """

    def __init__(
        self,
        *,
        input_dim: int = 4,
        hidden_dim: int = 64,
        output_dim: int = 320,
        depth: int = 10,
        dropout: float = 0.1,
    ):
        super().__init__()
        for name, value in (("input_dim", input_dim), ("hidden_dim", hidden_dim)):
            check_count(name, value)
        check_count("output_dim", output_dim)
        check_count("depth", depth)
        check_range("dropout", dropout, low=0, high=1, open_high=True)
        self.shape: dict[str, Any] = {
            "input_dim": input_dim,
            "hidden_dim": hidden_dim,
            "output_dim": output_dim,
            "depth": depth,
            "dropout": dropout,
        }
        self.input = nn.Linear(input_dim, hidden_dim)
        widths = [*[hidden_dim] * depth, output_dim]
        self.blocks = nn.ModuleList(
            _Block(hidden_dim, width, dilation=2**i, project=i == depth)
            for i, width in enumerate(widths)
        )
        self.dropout = nn.Dropout(dropout)

    @property
    def output_dim(self) -> int:
        """Length of a representation."""
        return int(self.shape["output_dim"])

    def forward(self, x_NTC: torch.Tensor, keep_NT: torch.Tensor | None = None) -> torch.Tensor:
        """Encode normalised windows.

        Parameters
        ----------
        x_NTC
            Shape (n, T, input_dim), finite.
        keep_NT
            Shape (n, T), bool; where False, the step is hidden (its latent vector is zero).

        Returns
        -------
        Shape (n, T, output_dim).
        """
        latent = self.input(x_NTC)
        if keep_NT is not None:
            latent = latent * keep_NT[..., None].to(latent.dtype)
        states_NDT = latent.transpose(1, 2)
        for block in self.blocks:
            states_NDT = block(states_NDT)
        return self.dropout(states_NDT).transpose(1, 2)

    def encode(self, x_NTC: torch.Tensor) -> torch.Tensor:
        """Return one vector a window, the maximum over time, shape (n, output_dim)."""
        return self(x_NTC).amax(dim=1)


class _Block(nn.Module):
    """GELU and convolution, twice, beside the identity (or a projection to another width)."""

    def __init__(self, num_in: int, num_out: int, *, dilation: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv1d(num_in, num_out, _KERNEL, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(num_out, num_out, _KERNEL, padding=dilation, dilation=dilation)
        self.projector = nn.Conv1d(num_in, num_out, 1) if project else None

    def forward(self, x_NDT: torch.Tensor) -> torch.Tensor:
        residual = x_NDT if self.projector is None else self.projector(x_NDT)
        inner = _convolve(self.conv1, functional.gelu(x_NDT))
        return residual + _convolve(self.conv2, functional.gelu(inner))


def _convolve(conv: nn.Conv1d, x_NDT: torch.Tensor) -> torch.Tensor:
    """Apply a dilated convolution; where its outer taps see padding only, the middle one alone."""
    if conv.dilation[0] < x_NDT.shape[2]:
        return conv(x_NDT)
    return functional.conv1d(x_NDT, conv.weight[:, :, 1:2], conv.bias)
