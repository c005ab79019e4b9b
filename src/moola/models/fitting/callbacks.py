"""What may look into, and steer, the training of a torch classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class FitState:
    """What a callback sees of the running fit.

    `first_epoch_to_keep` is the first epoch whose weights early stopping may keep: a freeze
    schedule raises it, so that the weights kept have been through the whole schedule.
    `never_frozen` names encoder tensors that no schedule may freeze: those an encoder did not
    bring, which start at random. `resumed_at` is the epoch an interrupted fit goes on with.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    num_epochs: int
    epoch: int = 0
    kept_epoch: int = 0
    first_epoch_to_keep: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    never_frozen: frozenset[str] = frozenset()
    resumed_at: int | None = None


class Callback:
    """Base callback: does nothing. All methods are called in the order of their definition."""

    def on_fit_begin(self, state: FitState) -> None:
        """Before the first epoch; the net is initialised."""

    def load_state(self, values: Mapping[str, Any]) -> None:
        """Take back what ``state`` returned, before the first epoch of a resumed fit."""

    def on_epoch_begin(self, state: FitState) -> None:
        """Before the first batch of an epoch; the net is in training mode."""

    def on_batch_begin(self, state: FitState) -> None:
        """Before the forward pass of each batch. Must be cheap."""

    def on_gradients(self, state: FitState) -> None:
        """After the backward pass of each batch, before clipping and the step. Must be cheap."""

    def on_epoch_end(self, state: FitState) -> None:
        """After validation; the epoch's row is the last of ``state.history``."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed fit needs, JSON-ready."""
        return {}

    def on_fit_end(self, state: FitState) -> None:
        """After the kept weights are restored."""
