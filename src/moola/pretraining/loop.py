"""Pretraining as an objective of the training loop: its epochs and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from moola.config.pretraining import CorpusConfig
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.loop import MAX_GRADIENT_NORM
from moola.pretraining.distributed import ALONE, Share

MIN_LEARNING_RATE = 1e-5
_WARM_UP = 0.1


class PretextTask(Protocol):
    """What is trained and how it is measured.

    Attributes
    ----------
    monitor
        The figure by which the best epoch is kept, the smallest; the first that ``evaluate``
        returns.
    """

    monitor: str

    @property
    def model(self) -> nn.Module:
        """The module that is trained; its weights are those of the best epoch."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what ``losses`` yields."""

    def num_batches(self) -> int:
        """Return how many batches an epoch has."""

    def losses(self, draw: torch.Generator, share: Share) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield, for each batch of an epoch, its parts (the loss first) and its windows."""

    def evaluate(self) -> dict[str, float]:
        """Measure the model on what was held out."""


class Pretraining:
    """A pretraining as an objective of the loop; nothing inside an epoch waits for the device.

    What an epoch draws depends on the seed and its number alone, so a run that was killed goes on
    to the same weights.

    Parameters
    ----------
    objective
        What is trained; its model is on `device`.
    config
        Epochs, rate, schedule and seed.
    device
        ``cpu`` or ``cuda``.
    share
        This process's part of every batch.
    """

    def __init__(
        self, objective: PretextTask, config: CorpusConfig, *, device: str, share: Share = ALONE
    ):
        self.objective, self.config, self.share = objective, config, share
        self.net, self.monitor = objective.model, objective.monitor
        self.order = torch.Generator(device=device)

    def epoch(self, state: FitState, callbacks: Sequence[Callback]) -> dict[str, float]:
        """Train one epoch; measure what was held out."""
        base = (self.config.seed * 1_000_003 + state.epoch) * 4096
        self.order.manual_seed(base)
        torch.manual_seed(base + 1 + self.share.rank)
        row = _train_epoch(self.objective, self.config, state, self.order, self.share)
        return row | _measure(self.objective, self.order.device, self.share)


def rate_at(config: CorpusConfig, epoch: int, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted over all epochs."""
    low = min(MIN_LEARNING_RATE, config.learning_rate)
    if config.schedule == "cosine":
        progress = epoch / config.epochs
    else:
        total = config.epochs * num_steps
        warm = max(1, round(_WARM_UP * total))
        if step < warm:
            return config.learning_rate * (step + 1) / warm
        progress = (step - warm) / max(1, total - warm)
    return low + (config.learning_rate - low) * (1 + math.cos(math.pi * progress)) / 2


def _train_epoch(
    objective: PretextTask,
    config: CorpusConfig,
    state: FitState,
    draw: torch.Generator,
    share: Share,
) -> dict[str, float]:
    parameters = list(objective.model.parameters())
    num_batches = objective.num_batches()
    sums = torch.zeros(len(objective.parts) + 1, device=draw.device)
    windows, rate = 0, 0.0
    for batch, (parts, num) in enumerate(objective.losses(draw, share)):
        rate = rate_at(config, state.epoch, state.epoch * num_batches + batch, num_batches)
        state.optimizer.param_groups[0]["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        parts[0].backward()
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        state.optimizer.step()
        sums += torch.cat([parts.detach(), norm.reshape(1)]) * num
        windows += num
    means = (sums / windows).tolist()
    names = (*(f"train_{p}" for p in objective.parts), "gradient_norm")
    return {"epoch": state.epoch, "learning_rate": rate, **dict(zip(names, means, strict=True))}


def _measure(objective: PretextTask, device: torch.device, share: Share) -> dict[str, float]:
    objective.model.eval()
    figures = objective.evaluate() if share.leads or share.alone else {}
    if share.alone:
        return figures
    length = share.agree(torch.tensor(len(figures), device=device))
    values = torch.zeros(int(length), dtype=torch.float64, device=device)
    if share.leads:
        values.copy_(torch.tensor(list(figures.values()), dtype=torch.float64))
        share.agree(values)
        return figures
    agreed = share.agree(values).tolist()
    return {objective.monitor if i == 0 else f"val_{i}": v for i, v in enumerate(agreed)}
