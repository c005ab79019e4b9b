"""The loop of every pretraining: epochs, schedule, early stopping, a state to go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import nn

from moola.config.pretraining import CorpusConfig
from moola.errors import CheckpointError, ProofError, one_line
from moola.models.fitting.callbacks import FitState
from moola.models.fitting.early_stopping import EarlyStopping
from moola.models.fitting.resume import StateFile, read_state, write_state
from moola.pretraining.distributed import ALONE, Share

MAX_GRADIENT_NORM = 1.0
MIN_LEARNING_RATE = 1e-5
_WARM_UP = 0.1

OnEpoch = Callable[[dict[str, float], int], None]


class Objective(Protocol):
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


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """History by epoch; which epoch's weights the model holds, and where the run was resumed."""

    history: tuple[dict[str, float], ...]
    kept_epoch: int
    resumed_at: int | None


def run_epochs(
    objective: Objective,
    config: CorpusConfig,
    *,
    device: str,
    on_epoch: OnEpoch | None = None,
    state_file: StateFile | None = None,
    share: Share = ALONE,
) -> LoopResult:
    """Train; the model holds the weights of the best epoch afterwards.

    After every epoch the state is written; what an epoch draws depends on the seed and its number
    alone, so a run that was killed goes on to the same weights. Nothing inside an epoch waits for
    the device.

    Parameters
    ----------
    objective
        What is trained; its model is on `device`.
    config
        Epochs, rate, schedule, patience and seed.
    device
        ``cpu`` or ``cuda``.
    on_epoch
        Called with each epoch's row and the number of epochs.
    state_file
        Keeps the state after every epoch; None keeps none.
    share
        This process's part of every batch.

    Returns
    -------
    LoopResult
        The history; the best weights are in the model.

    Raises
    ------
    ProofError
        If a loss or a gradient becomes NaN.
    CheckpointError
        If the state cannot be written.
    """
    model = objective.model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    state = FitState(net=model, optimizer=optimizer, num_epochs=config.epochs)
    draw = torch.Generator(device=device)
    stopping = EarlyStopping()
    if state_file is not None:
        stopping = read_state(state_file, state, order=draw, callbacks=()) or stopping
    first = state.resumed_at or 0
    for state.epoch in range(first, first if stopping.stopped else config.epochs):
        _seed_epoch(config.seed, state.epoch, share, draw)
        row = _train_epoch(objective, config, state, draw, share)
        row |= _measure(objective, device, share)
        _require_finite(row, config)
        state.history.append(row)
        stopping.note(row[objective.monitor], state, patience=config.patience)
        if state_file is not None and share.leads:
            _write(state_file, state, stopping, draw)
        if on_epoch is not None:
            on_epoch(row, config.epochs)
        if stopping.stopped:
            break
    assert stopping.best_weights is not None
    model.load_state_dict(stopping.best_weights)
    model.eval()
    return LoopResult(
        history=tuple(state.history), kept_epoch=state.kept_epoch, resumed_at=state.resumed_at
    )


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


def _seed_epoch(seed: int, epoch: int, share: Share, draw: torch.Generator) -> None:
    base = (seed * 1_000_003 + epoch) * 4096
    draw.manual_seed(base)
    torch.manual_seed(base + 1 + share.rank)


def _train_epoch(
    objective: Objective,
    config: CorpusConfig,
    state: FitState,
    draw: torch.Generator,
    share: Share,
) -> dict[str, float]:
    parameters = list(objective.model.parameters())
    objective.model.train()
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


def _measure(objective: Objective, device: str, share: Share) -> dict[str, float]:
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


def _require_finite(row: dict[str, float], config: CorpusConfig) -> None:
    bad = [k for k, v in row.items() if not math.isfinite(v)]
    if bad:
        raise ProofError(
            f"{', '.join(bad)} is not a number in epoch {int(row['epoch']) + 1}",
            limit="finite losses and gradients",
            remedy=f"Lower the learning rate ({config.learning_rate:g}); "
            "the state of the epoch before is intact",
        )


def _write(
    file: StateFile, state: FitState, stopping: EarlyStopping, draw: torch.Generator
) -> None:
    try:
        write_state(file, state, stopping, order=draw, callbacks=())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the state after epoch {state.epoch + 1} cannot be written: {one_line(error)}",
            limit=f"room for {file.path.name} in {file.path.parent}",
            remedy="Make room and go on with --resume; the state of the epoch before is intact",
        ) from None
