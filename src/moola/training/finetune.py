"""Fine-tuning: build the model, load the encoder strictly, follow the schedule, prove it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moola.config.training import FinetuneConfig
from moola.data.audit import CorpusClaim
from moola.errors import AuditError
from moola.models import REGISTRY, get_model
from moola.models.callbacks import Callback, FitState
from moola.models.checkpoint import read_checkpoint
from moola.models.enhanced_simple_lstm import PRESETS
from moola.models.pretrained_utils import load_pretrained_strict
from moola.training.forensics import WeightEvolution
from moola.training.freeze import FreezeCallback, make_schedule


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A trained model and the proof of how it was trained.

    `load_report` is None without an encoder; `schedule`, `proof` and `evolution` are None for
    models that are not trained by gradient.
    """

    model: Any
    history: Sequence[dict[str, Any]]
    load_report: dict[str, Any] | None
    schedule: dict[str, Any] | None
    proof: dict[str, Any] | None
    evolution: pa.Table | None


def finetune(
    config: FinetuneConfig,
    X: NDArray,
    y: NDArray,
    *,
    validation: tuple[NDArray, NDArray] | None = None,
    device: str,
    on_epoch: Callable[[dict[str, Any], int], None] | None = None,
) -> FinetuneResult:
    """Train one classifier on windows in price units.

    Parameters
    ----------
    config
        What to train and how.
    X, y
        Windows, shape (n, T, 4), and labels, shape (n,).
    validation
        For early stopping; not used with ``config.patience`` 0.
    device
        ``cpu`` or ``cuda``, resolved.
    on_epoch
        Called with each epoch's history row and the number of epochs, for progress.

    Raises
    ------
    CheckpointError
        If the encoder cannot be loaded as asked.
    ProofError
        If training did not do what the schedule says.
    """
    if REGISTRY[config.model].role in ("CLASSICAL", "CONTROL"):
        model = get_model(config.model, seed=config.seed).fit(X, y)
        return FinetuneResult(
            model=model, history=(), load_report=None, schedule=None, proof=None, evolution=None
        )
    model = build_model(config, device)
    schedule = make_schedule(
        config.schedule,
        unfreeze_after=config.unfreeze_after,
        lr_factor=config.unfreeze_lr_factor,
        num_layers=model.num_layers,
    )
    evolution = WeightEvolution(schedule)
    loader = _LoadEncoder(config)
    callbacks: list[Callback] = [loader, FreezeCallback(schedule), evolution]
    if on_epoch is not None:
        callbacks.append(_OnEpoch(on_epoch))
    early_stopping = validation if config.patience else None
    model.fit(X, y, validation=early_stopping, callbacks=callbacks)
    return FinetuneResult(
        model=model,
        history=model.history_,
        load_report=loader.report,
        schedule=schedule.to_dict(),
        proof={**evolution.proof(), "kept_epoch": model.kept_epoch_},
        evolution=evolution.to_table(),
    )


def build_model(config: FinetuneConfig, device: str) -> Any:
    """Return the unfitted torch estimator a configuration describes."""
    return get_model(
        config.model,
        **PRESETS[config.preset],
        seed=config.seed,
        dropout=config.dropout,
        n_epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        early_stopping_patience=config.patience,
        class_weight=config.class_weight,
        use_amp=device == "cuda",
        device=device,
    )


def encoder_claim(path: str | Path) -> CorpusClaim:
    """Return what an encoder's checkpoint says it was trained on.

    Raises
    ------
    AuditError
        If it does not say: such an encoder may have seen the bars it will be judged on.
    """
    config = read_checkpoint(Path(path)).config
    if "corpus" not in config:
        raise AuditError(
            f"encoder {path} does not state the corpus it was pretrained on",
            remedy="Pretrain it with `moola pretrain-bilstm`, which writes the statement",
        )
    return CorpusClaim.from_dict(config["corpus"])


def early_stopping_rows(
    train: NDArray[np.int64], label_end: NDArray[np.int64], first: NDArray[np.int64], share: float = 0.15
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut the latest `share` of the training windows off for early stopping, purged.

    Returns
    -------
    Rows to fit on and rows to stop on, both sorted.
    """
    border = len(train) - max(1, round(share * len(train)))
    held = train[border:]
    fit = train[:border]
    return fit[label_end[fit] < first[held].min()], held


class _LoadEncoder(Callback):
    """Load the pretrained encoder into the freshly built net, before anything else looks at it."""

    def __init__(self, config: FinetuneConfig):
        self.config = config
        self.report: dict[str, Any] | None = None

    def on_fit_begin(self, state: FitState) -> None:
        """Load strictly; freezing is the schedule's business."""
        if self.config.pretrained_encoder:
            self.report = load_pretrained_strict(
                state.net,
                self.config.pretrained_encoder,
                freeze_encoder=self.config.schedule != "none",
                min_match_ratio=self.config.min_match_ratio,
            )


class _OnEpoch(Callback):
    def __init__(self, report: Callable[[dict[str, Any], int], None]):
        self.report = report

    def on_epoch_end(self, state: FitState) -> None:
        self.report(state.history[-1], state.num_epochs)
