"""The three kinds of pretraining behind one face: how each is run, measured and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moola.config.pretraining import MultitaskConfig, PretrainConfig, TS2VecConfig
from moola.data.windows import normalise
from moola.errors import CheckpointError
from moola.evaluation.calibration import calibration_bins
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.weights.checkpoint import read_checkpoint
from moola.pretraining import masked_lstm_pretrain as masked
from moola.pretraining import multitask_pretrain as multitask
from moola.pretraining import ts2vec_pretrain as ts2vec
from moola.pretraining.quality import (
    Reconstruction,
    collapse_figures,
    encode,
    error_table,
    reconstruct,
    variance_shares,
)
from moola.pretraining.session import PretrainResult, Session


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What an encoder shows on windows it was not trained on.

    `variance_shares` are those of the embedding's principal directions. `reconstruction` and
    `error_rows` (see ``quality.error_table``) belong to the masked autoencoder alone. `calibration`
    holds the bins of each task that is answered by probabilities.
    """

    figures: Mapping[str, float]
    variance_shares: NDArray[np.float64]
    reconstruction: Reconstruction | None = None
    error_rows: tuple[dict[str, Any], ...] = ()
    calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of pretraining.

    `name` is the ``kind`` of its checkpoints, `build` makes the model of the ``shape`` stored
    there. `pretrain` takes windows, a configuration and a session; `measure` the model, held-out
    windows in price units, the configuration and the number of neighbouring windows that share
    bars. `uncalibrated` says why its answers have no calibration, empty where `measure` gives it.
    `monitor` is the figure the best epoch is kept by, `curves` those drawn beside the
    training loss.
    """

    name: str
    build: Callable[..., nn.Module]
    title: str
    run_name: str
    monitor: str
    curves: tuple[str, ...]
    pretrain: Callable[[NDArray, Any, Session], PretrainResult[Any]]
    measure: Callable[[Any, NDArray, Any, int], Quality]
    uncalibrated: str = ""


def _measure_masked(model: Any, X: NDArray, config: PretrainConfig, block: int) -> Quality:
    model = model.cpu()
    reconstruction = reconstruct(model, X, config.to_dict(), seed=0)
    rows = error_table(reconstruction, patch_size=config.patch_size, block=block)
    figures = {f"masked_{key}": float(rows[0][key]) for key in rows[0] if key != "part"}
    return _with_spread(encode(model, X), figures, reconstruction, rows)


def _measure_multitask(model: Any, X: NDArray, config: MultitaskConfig, block: int) -> Quality:
    model = model.cpu()
    constant = multitask.majority_accuracy(torch.from_numpy(normalise(X)), config.horizon_bars)
    figures = {f"constant_{task}_accuracy": share for task, share in constant.items()}
    # of windows that share no bar: neighbours would make the bands too narrow
    answers = multitask.held_out_answers(model, X[::block], config.horizon_bars)
    bins = {task: calibration_bins(y, p).to_dict() for task, (y, p) in answers.items() if len(y)}
    return replace(_with_spread(encode(model, X), figures), calibration=bins)


def _measure_ts2vec(model: Any, X: NDArray, config: TS2VecConfig, block: int) -> Quality:
    return _with_spread(encode(model.cpu(), X), {})


def _with_spread(
    states_ND: NDArray,
    figures: Mapping[str, float],
    reconstruction: Reconstruction | None = None,
    rows: list[dict[str, Any]] | None = None,
) -> Quality:
    return Quality(
        figures={**figures, **collapse_figures(states_ND)},
        variance_shares=variance_shares(states_ND),
        reconstruction=reconstruction,
        error_rows=tuple(rows or ()),
    )


KINDS: Mapping[type, Kind] = {
    PretrainConfig: Kind(
        name=masked.ENCODER_KIND,
        build=BiLSTMMaskedAutoencoder,
        title="Masked BiLSTM pretraining",
        run_name="bilstm-encoder",
        monitor="val_recon",
        curves=("train_recon", "val_recon"),
        pretrain=masked.pretrain_masked,
        measure=_measure_masked,
        uncalibrated="hidden bars are answered by prices, not by probabilities",
    ),
    TS2VecConfig: Kind(
        name=ts2vec.ENCODER_KIND,
        build=ts2vec.TS2VecModel,
        title="TS2Vec pretraining",
        run_name="ts2vec-encoder",
        monitor="val_loss",
        curves=("val_loss",),
        pretrain=ts2vec.pretrain_ts2vec,
        measure=_measure_ts2vec,
        uncalibrated="contrastive training answers no question with probabilities",
    ),
    MultitaskConfig: Kind(
        name=multitask.ENCODER_KIND,
        build=multitask.build_multitask,
        title="Multitask BiLSTM pretraining",
        run_name="multitask-encoder",
        monitor="val_loss",
        curves=("val_loss",),
        pretrain=multitask.pretrain_multitask,
        measure=_measure_multitask,
    ),
}


def build_pretrained(config: Mapping[str, Any]) -> nn.Module:
    """Return a fresh model, in evaluation mode, as a checkpoint's configuration describes it.

    Raises CheckpointError if the configuration is not that of a pretrained encoder.
    """
    builders = {kind.name: kind.build for kind in KINDS.values()}
    kind, shape = config.get("kind"), config.get("shape")
    if kind not in builders or not isinstance(shape, Mapping):
        raise CheckpointError(
            f"a checkpoint of kind {kind!r} is no pretrained encoder with its shape",
            limit=f"a kind of {', '.join(builders)}",
            remedy="Pretrain the encoder with Moola",
        )
    return builders[kind](**shape).eval()


def load_pretrained(folder: Path) -> nn.Module:
    """Read back what ``save_pretrained`` wrote, decoder or heads included, on the CPU.

    Raises what ``read_checkpoint`` and ``build_pretrained`` raise.
    """
    checkpoint = read_checkpoint(folder)
    model = build_pretrained(checkpoint.config)
    model.load_state_dict(dict(checkpoint.tensors))
    return model
