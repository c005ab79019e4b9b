"""What Gate 3 asks of an encoder of any kind: masked error, linear probe, collapse."""

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
from moola.models.weights.checkpoint import read_config
from moola.pretraining.kinds import build_pretrained, load_pretrained
from moola.pretraining.quality import block_interval, collapse_figures, encode, masked_errors


def encoder_evidence(
    folder: Path,
    X_heldout: NDArray[np.float32],
    probe: tuple[NDArray, NDArray, NDArray, NDArray],
    *,
    corpus_block: int,
    probe_block: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure an encoder for Gate 3.

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
        Of the masks and of the random encoder.

    Returns
    -------
    JSON-ready figures, as ``gate_3_encoder`` of :mod:`moola.evaluation` reads them. A model without
    a decoder has no masked error; the reason is given in its place.
    """
    model, config = load_pretrained(folder), read_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = build_pretrained(config)
    return {
        "masked_error": _masked_error(model, X_heldout, config, corpus_block, seed),
        **_probe_figures(model, random, probe, probe_block),
        **collapse_figures(encode(model, X_heldout)),
    }


def _masked_error(
    model: Any, X: NDArray, config: Mapping[str, Any], block: int, seed: int
) -> dict[str, Any]:
    if not isinstance(model, BiLSTMMaskedAutoencoder):
        return {"not_applicable": f"a model of kind {config['kind']} has no decoder"}
    errors = masked_errors(model, X, config["pretraining"], seed=seed)
    delta, low, high = block_interval(errors["model"] - errors["linear"], block)
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
