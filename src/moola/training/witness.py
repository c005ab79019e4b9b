"""Telling what a training does while it does it, so that one that is stopped has told it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from moola.errors import MoolaError
from moola.models.fitting.callbacks import Callback, FitState
from moola.training.forensics import WeightEvolution


class Witness:
    """Told schedule, load report and epochs of a training; by itself it does nothing with them."""

    def schedule(self, schedule: Mapping[str, Any]) -> None:
        """Before the encoder is loaded."""

    def load(self, report: Mapping[str, Any]) -> None:
        """As soon as the encoder is loaded; a refusal is an error that carries its report."""

    def epochs(
        self,
        history: Sequence[Mapping[str, Any]],
        evolution: WeightEvolution,
        num_epochs: int,
        *,
        last: bool,
    ) -> None:
        """After each epoch, with all epochs so far; `last` when the training failed or stopped."""


class Watched(Callback):
    """Pass epochs to a witness, and once more what there is when the block ends by an error.

    Comes after the weight evolution, which raises in the epoch in which a schedule is broken.
    """

    def __init__(self, witness: Witness, evolution: WeightEvolution):
        self._witness, self._evolution = witness, evolution
        self._state: FitState | None = None

    def on_fit_begin(self, state: FitState) -> None:
        """Keep the state: its history grows."""
        self._state = state

    def on_epoch_end(self, state: FitState) -> None:
        """Tell the epochs so far."""
        self._tell(last=False)

    def on_fit_end(self, state: FitState) -> None:
        """Tell the epochs of a training that was resumed when it had already ended."""
        self._tell(last=False)

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._tell(last=True)

    def _tell(self, *, last: bool) -> None:
        if self._state is not None:
            state = self._state
            self._witness.epochs(state.history, self._evolution, state.num_epochs, last=last)


@contextmanager
def refusal_reported(encoder: str) -> Iterator[None]:
    """Give an error raised in the block a load report that says why nothing was loaded."""
    try:
        yield
    except MoolaError as error:
        report = error.proof[1] if error.proof is not None else {}
        stated = {"loaded": False, "checkpoint": encoder, "refusal": str(error)}
        error.proof = ("load_report", {**stated, **report})
        raise
