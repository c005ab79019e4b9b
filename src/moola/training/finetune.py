"""Fine-tuning: build the model, load the encoder strictly, follow the schedule, prove it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import moola
from moola.config.training import LARGEST_SIZES, SIZED_BY, FinetuneConfig
from moola.data.audit.trail import CorpusClaim
from moola.errors import AuditError, CheckpointError, DataError
from moola.hashing import sha256_array, sha256_json
from moola.models import REGISTRY, get_model
from moola.models.adapter_lstm import AdapterLSTMModel
from moola.models.enhanced_simple_lstm import PRESETS
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.resume import StateFile, path_of_state
from moola.models.pretrained_utils import load_pretrained_strict, lstm_sizes
from moola.models.weights.checkpoint import read_checkpoint
from moola.models.weights.freeze import FreezeCallback, FreezeSchedule, make_schedule
from moola.training.forensics import WeightEvolution
from moola.training.witness import Watched, Witness, refusal_reported


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A trained model and the proof of how it was trained.

    `load_report` is None without an encoder; `schedule`, `proof` and `evolution` are None for
    models that are not trained by gradient. `resumed_at` is the epoch, from 0, an interrupted
    training went on with.
    """

    model: Any
    history: Sequence[dict[str, Any]]
    load_report: dict[str, Any] | None
    schedule: dict[str, Any] | None
    proof: dict[str, Any] | None
    evolution: pa.Table | None
    resumed_at: int | None = None


def finetune(
    config: FinetuneConfig,
    X: NDArray,
    y: NDArray,
    *,
    validation: tuple[NDArray, NDArray] | None = None,
    gap_windows: int | None = None,
    device: str,
    on_epoch: Callable[[dict[str, Any], int], None] | None = None,
    witness: Witness | None = None,
    state_path: Path | None = None,
    resume: bool = False,
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
    gap_windows
        Windows to leave out inside the folds that a control chooses its penalty on, so that no bar
        is left on both sides (`WindowTimes.gap_windows`); None: the control's own default.
    device
        ``cpu`` or ``cuda``, resolved.
    on_epoch
        Called with each epoch's history row and the number of epochs, for progress.
    witness
        Told schedule, load report and epochs as soon as each is known, also when the training fails
        or is stopped.
    state_path
        File that holds the training's state after every epoch; it stays when training is done, for
        the caller to remove when the model is safe.
    resume
        Go on from that file, if it is there, to the weights an uninterrupted training gives.

    Returns
    -------
    FinetuneResult
        The fitted model, and the proof.

    Raises
    ------
    CheckpointError
        If the encoder cannot be loaded as asked.
    AuditError
        If the encoder does not state the corpus it was pretrained on.
    ConfigError
        If the state to resume from is another training's.
    ProofError
        If training did not do what the schedule says.
    """
    if not REGISTRY[config.model].is_net:
        model = get_model(config.model, seed=config.seed)
        if gap_windows is not None and "gap_windows" in model.get_params():
            model.set_params(gap_windows=gap_windows)
        model.fit(X, y)
        return FinetuneResult(
            model=model, history=(), load_report=None, schedule=None, proof=None, evolution=None
        )
    if config.pretrained_encoder:
        encoder_claim(config.pretrained_encoder)
    early_stopping = validation if config.patience else None
    model = build_model(config, device)
    schedule = schedule_of(config, model)
    evolution = WeightEvolution(schedule)
    witness = witness or Witness()
    witness.schedule(schedule.to_dict())
    loader = _LoadEncoder(config, witness)
    watched = Watched(witness, evolution)
    callbacks: list[Callback] = [loader, FreezeCallback(schedule), evolution, watched]
    if on_epoch is not None:
        callbacks.append(_OnEpoch(on_epoch))
    state_file = None
    if state_path is not None:
        identity = training_identity(config, X, y, early_stopping, device)
        state_file = StateFile(path=state_path, identity=identity, resume=resume)
    with watched:
        model.fit(X, y, validation=early_stopping, callbacks=callbacks, state_file=state_file)
    return FinetuneResult(
        model=model,
        history=model.history_,
        load_report=loader.report,
        schedule=schedule.to_dict(),
        proof={**evolution.proof(), "kept_epoch": model.kept_epoch_},
        evolution=evolution.to_table(),
        resumed_at=model.resumed_at_,
    )


def schedule_of(config: FinetuneConfig, model: Any) -> FreezeSchedule:
    """Return the freeze schedule a configuration asks for, for an unfitted estimator."""
    return make_schedule(
        config.schedule,
        unfreeze_after=config.unfreeze_after,
        lr_factor=config.unfreeze_lr_factor,
        num_layers=getattr(model, "num_layers", 1),
        phases=config.phases,
        bidirectional=getattr(model, "bidirectional", True),
        layers=getattr(model, "encoder_layers", None),
    )


def training_identity(
    config: FinetuneConfig,
    X: NDArray,
    y: NDArray,
    validation: tuple[NDArray, NDArray] | None,
    device: str,
) -> str:
    """Return the digest of all that determines a training: what may resume what."""
    arrays = [X, y, *(validation or ())]
    encoder = config.pretrained_encoder
    return sha256_json(
        {
            "config": {**config.to_dict(), "device": device},
            "encoder": read_checkpoint(Path(encoder)).sha256 if encoder else None,
            "arrays": [sha256_array(np.asarray(a)) for a in arrays],
            "moola": moola.__version__,
            "torch": torch.__version__,
        }
    )


def resume_path(config: FinetuneConfig, folder: Path = Path("artifacts/resume")) -> Path:
    """Return where the state of a configuration's training is kept."""
    return path_of_state(folder, f"train-{config.model}", config.to_dict())


def epoch_line(row: Mapping[str, Any], num_epochs: int) -> str:
    """Return one epoch's figures as the line of a log."""
    line = f"[Epoch {int(row['epoch']) + 1}/{num_epochs}] Train loss={row['train_loss']:.2f}"
    if "val_loss" in row:
        line += f" | Val loss={row['val_loss']:.2f}"
    if "grad_norm_head" in row:
        norms = f"{row['grad_norm_encoder']:.2f}/{row['grad_norm_head']:.2f}"
        line += f" | Grad norm (encoder/head)={norms}"
    return line


def build_model(config: FinetuneConfig, device: str) -> Any:
    """Return the unfitted torch estimator a configuration describes."""
    params = model_params(config, net_sizes(config), use_amp=device == "cuda")
    return get_model(config.model, **params, device=device)


def model_params(
    config: FinetuneConfig, shape: Mapping[str, int], *, use_amp: bool = False
) -> dict[str, Any]:
    """Return the arguments of a configuration's estimator, its device left out.

    Parameters
    ----------
    config
        What to train and how.
    shape
        The net's sizes.
    use_amp
        Whether it trains in bfloat16.

    Returns
    -------
    dict
        For `moola.models.get_model`.
    """
    return {
        **shape,
        "seed": config.seed,
        "dropout": config.dropout,
        "n_epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "early_stopping_patience": config.patience,
        "class_weight": config.class_weight,
        "focal_gamma": config.focal_gamma,
        "use_temporal_aug": config.use_temporal_aug,
        "mixup_alpha": config.mixup_alpha,
        "cutmix_alpha": config.cutmix_alpha,
        "use_amp": use_amp,
    }


def stated_sizes(config: FinetuneConfig) -> dict[str, int]:
    """Return the net's sizes that a configuration states by itself, whatever its encoder."""
    one_size = config.model in ("simple_lstm", "adapter_lstm")  # they have one size of their own
    preset = {} if one_size else PRESETS[config.preset]
    asked = {name: getattr(config, name) for name in LARGEST_SIZES}
    return {**preset, **{name: size for name, size in asked.items() if size is not None}}


def net_sizes(config: FinetuneConfig) -> dict[str, int]:
    """Return the net's sizes: those asked for, else those of its encoder, else the preset's.

    Raises
    ------
    CheckpointError
        If the encoder is of another kind than the model takes.
    """
    if not config.pretrained_encoder:
        return stated_sizes(config)
    tensors = read_checkpoint(Path(config.pretrained_encoder)).tensors
    if config.model == "adapter_lstm":
        return AdapterLSTMModel.encoder_shape(tensors)
    if config.model not in SIZED_BY["hidden_size"]:
        return stated_sizes(config)
    return {**stated_sizes(config), **_sizes_of_encoder(config, lstm_sizes(tensors))}


def with_sizes(config: FinetuneConfig) -> FinetuneConfig:
    """Return a configuration that states the sizes its encoder gives it, as a version does."""
    if not config.pretrained_encoder or config.model not in SIZED_BY["hidden_size"]:
        return config
    tensors = read_checkpoint(Path(config.pretrained_encoder)).tensors
    sizes: dict[str, Any] = {**_sizes_of_encoder(config, lstm_sizes(tensors))}
    return replace(config, **sizes)


def _sizes_of_encoder(config: FinetuneConfig, lstm: tuple[int, int] | None) -> dict[str, int]:
    if lstm is None:
        raise CheckpointError(
            f"encoder {config.pretrained_encoder} is no LSTM, and {config.model} has one",
            limit="an encoder of `moola pretrain-bilstm` or `moola pretrain-multitask`",
            remedy="Use --model adapter_lstm with an encoder of `moola pretrain-ts2vec`",
        )
    hidden, layers = lstm
    sizes = {"hidden_size": hidden, "num_layers": 1 if config.model == "simple_lstm" else layers}
    return {name: size for name, size in sizes.items() if getattr(config, name) is None}


def encoder_claim(path: str | Path) -> CorpusClaim:
    """Return what an encoder's checkpoint says it was trained on.

    Parameters
    ----------
    path
        Of the checkpoint.

    Returns
    -------
    CorpusClaim
        As it is stored there.

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
    train: NDArray[np.int64],
    label_end: NDArray[np.int64],
    first: NDArray[np.int64],
    share: float = 0.15,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut the latest `share` of the training windows off for early stopping, purged.

    Parameters
    ----------
    train
        Windows in time order, shape (m,).
    label_end, first
        Last bar of every window's label and first bar of every window, as rows of the source.
    share
        To hold back, above 0 and below 1; at least one window.

    Returns
    -------
    Rows to fit on and rows to stop on, both sorted, neither empty.

    Raises
    ------
    DataError
        If no window ends its label before those held back begin.
    """
    border = len(train) - max(1, round(share * len(train)))
    stop = train[border:]
    fit = train[:border]
    purged = fit[label_end[fit] < first[stop].min()] if len(stop) else fit[:0]
    if not len(purged):
        raise DataError(
            f"of {len(train)} training windows none is left to fit on: all share bars with the "
            f"{len(stop)} held back for early stopping",
            limit="windows whose labels end before the latest begin",
            remedy="Take a longer train part, or --patience 0, which stops nothing early",
        )
    return purged, stop


class _LoadEncoder(Callback):
    """Load the pretrained encoder into the freshly built net, before anything else looks at it."""

    def __init__(self, config: FinetuneConfig, witness: Witness):
        self.config = config
        self.witness = witness
        self.report: dict[str, Any] | None = None

    def on_fit_begin(self, state: FitState) -> None:
        """Load strictly; freezing is the schedule's business."""
        encoder = self.config.pretrained_encoder
        if not encoder:
            return
        with refusal_reported(encoder):
            report = load_pretrained_strict(
                state.net,
                encoder,
                freeze_encoder=self.config.schedule != "none",
                min_match_ratio=self.config.min_match_ratio,
            )
        self.report = {"loaded": True, **report}
        self.witness.load(self.report)
        other = (tensor["name"] for tensor in report["mismatched"])
        state.never_frozen = frozenset((*report["missing"], *other))


class _OnEpoch(Callback):
    def __init__(self, report: Callable[[dict[str, Any], int], None]):
        self.report = report

    def on_epoch_end(self, state: FitState) -> None:
        self.report(state.history[-1], state.num_epochs)
