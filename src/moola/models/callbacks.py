"""What may look into, and steer, the training of a torch classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class FitState:
    """What a callback sees of the running fit.

    `first_epoch_to_keep` is the first epoch whose weights early stopping may keep: a freeze
    schedule raises it, so that the weights kept have been through the whole schedule.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    num_epochs: int
    epoch: int = 0
    kept_epoch: int = 0
    first_epoch_to_keep: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Callback:
    """Base callback: does nothing. All methods are called in the order of their definition."""

    def on_fit_begin(self, state: FitState) -> None:
        """Before the first epoch; the net is initialised."""

    def on_epoch_begin(self, state: FitState) -> None:
        """Before the first batch of an epoch; the net is in training mode."""

    def on_gradients(self, state: FitState) -> None:
        """After the backward pass of each batch, before clipping and the step. Must be cheap."""

    def on_epoch_end(self, state: FitState) -> None:
        """After validation; the epoch's row is the last of ``state.history``."""

    def on_fit_end(self, state: FitState) -> None:
        """After the kept weights are restored."""
