"""What an encoder learned: masked error against plain baselines, a linear probe, collapse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moola.data.windows import normalise
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder, interpolate
from moola.models.checkpoint import read_config
from moola.pretraining.masked_lstm_pretrain import load_autoencoder
from moola.pretraining.masking import draw_mask

_BATCH = 512


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
        Its checkpoint.
    X_heldout
        Windows it was not trained on, in time order, price units, shape (n, T, 4).
    probe
        ``X_fit, y_fit, X_eval, y_eval`` for a logistic regression on the mean encoder state.
    corpus_block, probe_block
        Neighbouring windows that share bars, in `X_heldout` and in the probe's windows.

    Returns
    -------
    JSON-ready figures, as ``gate_3_encoder`` of :mod:`moola.evaluation` reads them.
    """
    model = load_autoencoder(folder)
    stated = read_config(folder)
    config = stated["pretraining"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = BiLSTMMaskedAutoencoder(input_dim=4, **stated["shape"]).eval()
    errors = masked_errors(model, X_heldout, config, seed=seed)
    delta = _block_interval(errors["model"] - errors["linear"], corpus_block)
    X_fit, y_fit, X_eval, y_eval = probe
    correct = {
        name: _probe(net, X_fit, y_fit, X_eval, y_eval)
        for name, net in (("trained", model), ("random", random))
    }
    gain = _block_interval(
        correct["trained"].astype(float) - correct["random"].astype(float), probe_block
    )
    states = encode(model, X_heldout)
    return {
        "masked_error": {
            **{k: float(v.mean()) for k, v in errors.items()},
            "delta": delta[0],
            "delta_low": delta[1],
            "delta_high": delta[2],
        },
        "probe_accuracy": float(correct["trained"].mean()),
        "probe_accuracy_random": float(correct["random"].mean()),
        "probe_delta_low": gain[1],
        "probe_delta_high": gain[2],
        "probe_windows": len(y_eval),
        **collapse_figures(states),
    }


def masked_errors(
    model: BiLSTMMaskedAutoencoder, X: NDArray, config: Mapping[str, Any], *, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return each window's mean squared error on masked bars, shape (n,).

    ``model``; ``linear``: interpolation between the visible bars beside the hole, channel by
    channel; ``last_value``: the last visible close.
    """
    x = torch.from_numpy(normalise(np.asarray(X)))
    mask = draw_mask(
        config["mask_strategy"],
        len(x),
        x.shape[1],
        ratio=config["mask_ratio"],
        patch_size=config["patch_size"],
        generator=torch.Generator().manual_seed(seed),
    )
    with torch.inference_mode():
        filled = torch.cat(
            [model(x[i : i + _BATCH], mask[i : i + _BATCH])[0] for i in range(0, len(x), _BATCH)]
        ).numpy()
    truth, hidden = x.numpy().astype(np.float64), mask.numpy()
    linear, last = interpolate_masked(truth, hidden)

    def error(guess: NDArray) -> NDArray[np.float64]:
        squared = ((guess - truth) ** 2).mean(axis=2)
        return np.asarray((squared * hidden).sum(axis=1) / hidden.sum(axis=1))

    return {"model": error(filled), "linear": error(linear), "last_value": error(last)}


def interpolate_masked(
    x_NTC: NDArray[np.float64], mask_NT: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fill masked bars linearly per channel, and by the last visible close.

    At the ends the nearest visible bar is taken; each window must have at least one.
    """
    x, mask = torch.from_numpy(x_NTC), torch.from_numpy(mask_NT)
    linear = interpolate(x, mask).numpy()
    bar = np.arange(x_NTC.shape[1])
    left = np.maximum.accumulate(np.where(mask_NT, -1, bar), axis=1)
    first = np.argmin(mask_NT, axis=1)[:, None]
    row = np.arange(len(x_NTC))[:, None]
    last = np.broadcast_to(x_NTC[row, np.where(left < 0, first, left)][..., 3:4], x_NTC.shape)
    return linear, last


@torch.inference_mode()
def encode(model: BiLSTMMaskedAutoencoder, X: NDArray) -> NDArray[np.float32]:
    """Return the mean encoder state of each window, shape (n, 2 * hidden_dim)."""
    x = torch.from_numpy(normalise(np.asarray(X)))
    states = [model.encoder(x[i : i + _BATCH])[0].mean(dim=1) for i in range(0, len(x), _BATCH)]
    return np.asarray(torch.cat(states).numpy())


def collapse_figures(states_NH: NDArray) -> dict[str, float | int]:
    """Return the smallest standard deviation of a dimension and the effective rank.

    Effective rank: exponential of the entropy of the normalised eigenvalues of the covariance
    (Roy and Vetterli, 2007).
    """
    eigenvalues = np.linalg.svd(states_NH - states_NH.mean(axis=0), compute_uv=False) ** 2
    share = eigenvalues / eigenvalues.sum()
    return {
        "latent_std_min": float(states_NH.std(axis=0).min()),
        "effective_rank": float(np.exp(stats.entropy(share))),
        "num_dims": int(states_NH.shape[1]),
    }


def _probe(
    model: BiLSTMMaskedAutoencoder, X_fit: NDArray, y_fit: NDArray, X_eval: NDArray, y_eval: NDArray
) -> NDArray[np.bool_]:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    probe.fit(encode(model, X_fit), y_fit)
    guess = probe.predict(encode(model, X_eval))
    return np.asarray(guess == y_eval)


def _block_interval(values: NDArray[np.float64], block: int) -> tuple[float, float, float]:
    """Mean with a 95 % t interval over the means of non-overlapping blocks."""
    blocks = [b.mean() for b in np.array_split(values, max(2, len(values) // max(block, 1)))]
    low, high = stats.t.interval(
        0.95, len(blocks) - 1, loc=float(values.mean()), scale=stats.sem(blocks) or 1e-300
    )
    return float(values.mean()), float(low), float(high)
