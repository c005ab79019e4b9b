"""TCN: a temporal convolutional network (Bai, Kolter and Koltun, 2018, arXiv:1803.01271)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from moola.config.base import check_count
from moola.models.base import estimator
from moola.models.estimator import TorchWindowClassifier


class TCN(nn.Module):
    """Residual blocks of causal dilated convolutions; the last step's state is classified.

    Parameters
    ----------
    num_classes, input_dim
        K outputs; channels of a bar.
    num_channels, num_blocks
        Channels inside; block l has dilation 2**l.
    kernel_size, dropout
        Of the convolutions.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_dim: int = 4,
        num_channels: int = 32,
        num_blocks: int = 5,
        kernel_size: int = 3,
        dropout: float = 0.1,
    ):
        super().__init__()
        for name, value in (("num_channels", num_channels), ("num_blocks", num_blocks)):
            check_count(name, value)
        check_count("kernel_size", kernel_size)
        widths = [input_dim, *[num_channels] * num_blocks]
        self.blocks = nn.ModuleList(
            _TcnBlock(widths[i], widths[i + 1], kernel_size, dilation=2**i, dropout=dropout)
            for i in range(num_blocks)
        )
        self.classifier = nn.Linear(num_channels, num_classes)

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K); the features are not looked at."""
        states_NDT = x_NTC.transpose(1, 2)
        for block in self.blocks:
            states_NDT = block(states_NDT)
        return self.classifier(states_NDT[:, :, -1])


class _TcnBlock(nn.Module):
    """Two weight-normalised causal convolutions, each with ReLU and dropout, and a shortcut."""

    def __init__(self, num_in: int, num_out: int, kernel: int, *, dilation: int, dropout: float):
        super().__init__()
        self.padding = (kernel - 1) * dilation
        self.conv1 = weight_norm(nn.Conv1d(num_in, num_out, kernel, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(num_out, num_out, kernel, dilation=dilation))
        self.shortcut = nn.Conv1d(num_in, num_out, 1) if num_in != num_out else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NDT: torch.Tensor) -> torch.Tensor:
        inner = x_NDT
        for conv in (self.conv1, self.conv2):
            past_only = functional.pad(inner, (self.padding, 0))
            inner = self.dropout(functional.relu(conv(past_only)))
        return functional.relu(inner + self.shortcut(x_NDT))


@estimator
class TCNModel(TorchWindowClassifier):
    """Scikit-learn estimator around :class:`TCN`."""

    model_name = "moola.models.models_extras.tcn.TCNModel"

    num_channels: int = 32
    num_blocks: int = 5
    kernel_size: int = 3
    dropout: float = 0.1

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        return TCN(
            num_classes=num_classes,
            input_dim=self.net_inputs["input_dim"],
            num_channels=self.num_channels,
            num_blocks=self.num_blocks,
            kernel_size=self.kernel_size,
            dropout=self.dropout,
        )
