"""Early stopping: the smallest figure so far, the weights that gave it, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moola.models.fitting.callbacks import FitState
from moola.models.weights.net_tensors import net_state


@dataclass(kw_only=True)
class EarlyStopping:
    """How far early stopping is: the best figure, its weights, epochs since, whether it stopped."""

    best_loss: float | None = None
    best_weights: dict[str, torch.Tensor] | None = None
    since_best: int = 0
    stopped: bool = False

    def note(self, figure: float, state: FitState, *, patience: int) -> None:
        """Take an epoch's figure, which must be finite: keep the weights, or count towards the end.

        The weights are kept where the figure is the smallest so far; after `patience` epochs
        without a smaller one the training is stopped.
        """
        if self.best_loss is None or figure < self.best_loss:
            self.best_loss, self.since_best = figure, 0
            weights = net_state(state.net).items()
            self.best_weights = {n: t.detach().clone() for n, t in weights}
            state.kept_epoch = state.epoch
        else:
            self.since_best += 1
            self.stopped = self.since_best >= patience
