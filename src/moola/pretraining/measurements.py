"""What gate 3 asks of an encoder: its own pretext on held-out windows, a linear probe, collapse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.multitask_bilstm import MultiTaskBiLSTM
from moola.models.weights.checkpoint import read_config
from moola.pretraining.contrast import retrieval_errors
from moola.pretraining.kinds import build_pretrained, load_pretrained
from moola.pretraining.multitask_pretrain import task_losses
from moola.pretraining.quality import block_interval, collapse_figures, encode, masked_errors

_MOST_RETRIEVED = 2048  # windows: retrieval compares all steps of a window with each other


def encoder_measurements(
    folder: Path,
    X_heldout: NDArray[np.float32],
    probe: tuple[NDArray, NDArray, NDArray, NDArray],
    *,
    corpus_block: int,
    probe_block: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure an encoder for gate 3.

    Each kind is measured by its own pretext task against a trivial answer to it: masked
    reconstruction against linear interpolation and the last value (``masked_error``), the three
    tasks of the multitask encoder against the best constant, and TS2Vec's retrieval against an
    encoder of the same shape with random weights (``pretext``).

    Parameters
    ----------
    folder
        Its checkpoint, of any kind of pretraining.
    X_heldout
        Windows it was not trained on, in time order, price units, shape (n, T, 4).
    probe
        ``X_fit, y_fit, X_eval, y_eval`` for a logistic regression on the window's embedding.
    corpus_block, probe_block
        Neighbouring windows that share bars, in `X_heldout` and in the probe's windows.
    seed
        Seed of masks, crops and the random encoder.

    Returns
    -------
    dict
        JSON-ready, as ``gate_3_encoder`` of :mod:`moola.evaluation` reads it.
    """
    model, config = load_pretrained(folder), read_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = build_pretrained(config)
    return {
        **_pretext(model, random, X_heldout, config, block=corpus_block, seed=seed),
        **_probe_figures(model, random, probe, probe_block),
        **collapse_figures(encode(model, X_heldout)),
    }


def _pretext(
    model: Any, random: Any, X: NDArray, config: Mapping[str, Any], *, block: int, seed: int
) -> dict[str, Any]:
    options = config["pretraining"]
    if isinstance(model, BiLSTMMaskedAutoencoder):
        errors = masked_errors(model, X, options, seed=seed)
        return {"masked_error": _against(errors, "linear", block)}
    if isinstance(model, MultiTaskBiLSTM):
        task, baseline = "loss of the three tasks", "the best constant"
        errors = task_losses(model, X, options)
    else:
        task, baseline = "error of retrieval", "a random encoder"
        X = X[-_MOST_RETRIEVED:]
        errors = {
            "model": retrieval_errors(model.encoder, X, seed=seed),
            "baseline": retrieval_errors(random.encoder, X, seed=seed),
        }
    return {"pretext": {"task": task, "rival": baseline, **_against(errors, "baseline", block)}}


def _against(errors: Mapping[str, NDArray], baseline: str, block: int) -> dict[str, float]:
    delta, low, high = block_interval(errors["model"] - errors[baseline], block)
    means = {name: float(values.mean()) for name, values in errors.items()}
    return {**means, "delta": delta, "delta_low": low, "delta_high": high}


def _probe_figures(
    model: Any, random: Any, probe: tuple[NDArray, NDArray, NDArray, NDArray], block: int
) -> dict[str, Any]:
    trained, untrained = (_probe(net, *probe) for net in (model, random))
    _, low, high = block_interval(trained.astype(float) - untrained.astype(float), block)
    return {
        "probe_accuracy": float(trained.mean()),
        "probe_accuracy_random": float(untrained.mean()),
        "probe_delta_low": low,
        "probe_delta_high": high,
        "probe_windows": len(probe[3]),
    }


def _probe(
    model: Any, X_fit: NDArray, y_fit: NDArray, X_eval: NDArray, y_eval: NDArray
) -> NDArray[np.bool_]:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    probe.fit(encode(model, X_fit), y_fit)
    guess = probe.predict(encode(model, X_eval))
    return np.asarray(guess == y_eval)
