"""The training loop of every net, fine-tuned or pretrained: epochs, early stopping, resuming."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import nn

from moola.errors import CheckpointError, ProofError, one_line
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.early_stopping import EarlyStopping
from moola.models.fitting.resume import StateFile, read_state, write_state
from moola.models.weights.net_tensors import restore_net

MAX_GRADIENT_NORM = 1.0

OnEpoch = Callable[[dict[str, float], int], None]


class Objective(Protocol):
    """What is trained: how an epoch goes, and the number by which the best epoch is kept.

    Attributes
    ----------
    net
        The module that is trained.
    order
        Generator of what an epoch draws; a resumed training finds it as it was.
    monitor
        Name of the number whose smallest value marks the best epoch; an epoch without it is not
        compared, and the last epoch is kept.
    """

    net: nn.Module
    order: torch.Generator
    monitor: str

    def epoch(self, state: FitState, callbacks: Sequence[Callback]) -> dict[str, float]:
        """Train one epoch and measure it; return the epoch's row.

        The callbacks' `on_batch_begin` and `on_gradients` are called here.
        """


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Epochs at most, the rates of AdamW, and epochs without gain before the training stops."""

    num_epochs: int
    learning_rate: float
    weight_decay: float
    patience: int


def run_epochs(
    objective: Objective,
    options: LoopOptions,
    *,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch | None = None,
    state_file: StateFile | None = None,
    writes: bool = True,
) -> FitState:
    """Train; the net holds the kept weights afterwards and is in evaluation mode.

    Parameters
    ----------
    objective
        What is trained.
    options
        How long and how fast.
    callbacks
        Called in this order.
    on_epoch
        Called with each epoch's row and the number of epochs, once the epoch's state is safe.
    state_file
        Keeps the state after every epoch; None keeps none.
    writes
        Whether this process writes that file; of several processes in one training one does.

    Returns
    -------
    FitState
        As the last epoch left it.

    Raises
    ------
    ProofError
        If a loss or a gradient becomes NaN, or a callback reports that training violated the
        schedule.
    CheckpointError
        If the state cannot be written.
    """
    net = objective.net
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    state = FitState(net=net, optimizer=optimizer, num_epochs=options.num_epochs)
    for callback in callbacks:
        callback.on_fit_begin(state)
    stopping = EarlyStopping()
    if state_file is not None:
        resumed = read_state(state_file, state, order=objective.order, callbacks=callbacks)
        stopping = resumed or stopping
    first = state.resumed_at or 0
    state.epoch = max(first - 1, 0)  # a training that was finished has no epoch left to enter
    for state.epoch in range(first, first if stopping.stopped else options.num_epochs):
        net.train()
        for callback in callbacks:
            callback.on_epoch_begin(state)
        row = objective.epoch(state, callbacks)
        _require_finite(row, options)
        state.history.append(row)
        for callback in callbacks:
            callback.on_epoch_end(state)
        if objective.monitor in row and state.epoch >= state.first_epoch_to_keep:
            stopping.note(row[objective.monitor], state, patience=options.patience)
        if state_file is not None and writes:
            _write(state_file, state, stopping, objective.order, callbacks)
        if on_epoch is not None:
            on_epoch(row, options.num_epochs)
        if stopping.stopped:
            break
    if stopping.best_weights is not None:
        restore_net(net, stopping.best_weights)
    else:
        state.kept_epoch = state.epoch
    net.eval()
    for callback in callbacks:
        callback.on_fit_end(state)
    return state


def _require_finite(row: dict[str, float], options: LoopOptions) -> None:
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        raise ProofError(
            f"{', '.join(bad)} is not a number in epoch {int(row['epoch']) + 1}",
            limit="finite losses and gradients",
            remedy=f"Lower the learning rate ({options.learning_rate:g}); "
            "a state of the epoch before is intact",
        )


def _write(
    file: StateFile,
    state: FitState,
    stopping: EarlyStopping,
    order: torch.Generator,
    callbacks: Sequence[Callback],
) -> None:
    try:
        write_state(file, state, stopping, order=order, callbacks=callbacks)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the state after epoch {state.epoch + 1} cannot be written: {one_line(error)}",
            limit=f"room for {file.path.name} in {file.path.parent}",
            remedy="Make room and go on with --resume; the state of the epoch before is intact",
        ) from None
