"""What an encoder learned: masked error against plain baselines, embeddings, collapse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from moola.data.windows import normalise
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder, interpolate
from moola.models.ts2vec import TS2VecEncoder
from moola.pretraining.masking import draw_mask

_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What was hidden, what the model and the baselines put in its place; normalised windows.

    `truth`, `model`, `linear` and `last` have shape (n, T, 4), `mask` (n, T).
    """

    truth: NDArray[np.float64]
    mask: NDArray[np.bool_]
    model: NDArray[np.float32]
    linear: NDArray[np.float64]
    last: NDArray[np.float64]

    def squared(self, guess_NTC: NDArray) -> NDArray[np.float64]:
        """Return squared errors, shape (n, T, 4); 0 where a bar was visible."""
        return np.asarray((guess_NTC - self.truth) ** 2 * self.mask[..., None])


def reconstruct(
    model: BiLSTMMaskedAutoencoder, X: NDArray, config: Mapping[str, Any], *, seed: int
) -> Reconstruction:
    """Hide bars of windows in price units, as in training, and fill them in."""
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
    return Reconstruction(truth=truth, mask=hidden, model=filled, linear=linear, last=last)


def masked_errors(
    model: BiLSTMMaskedAutoencoder, X: NDArray, config: Mapping[str, Any], *, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return each window's mean squared error on masked bars, shape (n,).

    ``model``; ``linear``: interpolation between the visible bars beside the hole, channel by
    channel; ``last_value``: the last visible close.
    """
    return window_errors(reconstruct(model, X, config, seed=seed))


def window_errors(reconstruction: Reconstruction) -> dict[str, NDArray[np.float64]]:
    """Return what ``masked_errors`` returns, of a reconstruction."""
    hidden = reconstruction.mask.sum(axis=1)

    def error(guess: NDArray) -> NDArray[np.float64]:
        return np.asarray(reconstruction.squared(guess).mean(axis=2).sum(axis=1) / hidden)

    return {
        "model": error(reconstruction.model),
        "linear": error(reconstruction.linear),
        "last_value": error(reconstruction.last),
    }


def error_table(
    reconstruction: Reconstruction, *, patch_size: int, block: int
) -> list[dict[str, Any]]:
    """Return the masked error of model and linear interpolation: whole, by channel, by place.

    Parameters
    ----------
    reconstruction
        Windows in time order.
    patch_size
        Places are counted from 1 within the grid's patches of so many bars.
    block
        Neighbouring windows that share bars: the interval is that of block means.

    Returns
    -------
    Rows with ``part``, ``model``, ``linear``, ``last_value``, and the mean difference ``delta`` of
    model and linear with its 95 % interval ``delta_low``, ``delta_high``.
    """
    bar = np.arange(reconstruction.mask.shape[1]) % patch_size
    parts = {"all": np.ones(reconstruction.truth.shape[1:], bool)}
    for channel, name in enumerate(("open", "high", "low", "close")):
        parts[name] = np.broadcast_to(np.arange(4) == channel, parts["all"].shape)
    for place in range(patch_size):
        parts[f"bar {place + 1} of {patch_size}"] = np.broadcast_to(
            (bar == place)[:, None], parts["all"].shape
        )
    guesses: dict[str, NDArray] = {
        "model": reconstruction.model,
        "linear": reconstruction.linear,
        "last_value": reconstruction.last,
    }
    squared = {name: reconstruction.squared(guess) for name, guess in guesses.items()}
    return [
        _error_row(name, squared, reconstruction.mask, part, block) for name, part in parts.items()
    ]


def _error_row(
    name: str,
    squared: Mapping[str, NDArray[np.float64]],
    mask_NT: NDArray[np.bool_],
    part_TC: NDArray[np.bool_],
    block: int,
) -> dict[str, Any]:
    count = (mask_NT[..., None] & part_TC).sum(axis=(1, 2))
    counted = count > 0
    errors = {
        k: (v * part_TC).sum(axis=(1, 2))[counted] / count[counted] for k, v in squared.items()
    }
    delta, low, high = block_interval(errors["model"] - errors["linear"], block)
    means = {k: float(v.mean()) for k, v in errors.items()}
    return {"part": name, **means, "delta": delta, "delta_low": low, "delta_high": high}


def interpolate_masked(
    x_NTC: NDArray[np.float64], mask_NT: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fill masked bars linearly per channel, and by the last visible close.

    At the ends the nearest visible bar is taken; each window must have at least one.
    """
    x, mask = torch.from_numpy(x_NTC), torch.from_numpy(mask_NT)
    linear = interpolate(x, mask).numpy()
    bar = np.arange(x_NTC.shape[1])
    left_bar = np.maximum.accumulate(np.where(mask_NT, -1, bar), axis=1)
    first = np.argmin(mask_NT, axis=1)[:, None]
    row = np.arange(len(x_NTC))[:, None]
    last = np.broadcast_to(
        x_NTC[row, np.where(left_bar < 0, first, left_bar)][..., 3:4], x_NTC.shape
    )
    return linear, last


@torch.inference_mode()
def encode(model: Any, X: NDArray) -> NDArray[np.float32]:
    """Return one vector a window, shape (n, D), by the model's ``encoder``.

    Of an LSTM its mean state, D being twice its units; of TS2Vec its maximum over time.
    """

    def embed(x: torch.Tensor) -> torch.Tensor:
        if isinstance(model.encoder, TS2VecEncoder):
            return model.encoder.encode(x)
        states: torch.Tensor = model.encoder(x)[0]
        return states.mean(dim=1)

    x = torch.from_numpy(normalise(np.asarray(X)))
    parts = [embed(x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)]
    return np.asarray(torch.cat(parts).numpy())


def collapse_figures(states_NH: NDArray) -> dict[str, float | int]:
    """Return the smallest standard deviation of a dimension and the effective rank.

    Effective rank: exponential of the entropy of the normalised eigenvalues of the covariance
    (Roy and Vetterli, 2007); 0 where nothing varies.
    """
    share = variance_shares(states_NH)
    return {
        "latent_std_min": float(states_NH.std(axis=0).min()),
        "effective_rank": float(np.exp(stats.entropy(share))) if share.any() else 0.0,
        "num_dims": int(states_NH.shape[1]),
    }


def variance_shares(states_NH: NDArray) -> NDArray[np.float64]:
    """Return each principal direction's share of the variance, largest first.

    They sum to 1; all are 0 where nothing varies.
    """
    eigenvalues = np.linalg.svd(states_NH - states_NH.mean(axis=0), compute_uv=False) ** 2
    return np.asarray(eigenvalues / (eigenvalues.sum() or 1.0), dtype=np.float64)


def block_interval(values: NDArray[np.float64], block: int) -> tuple[float, float, float]:
    """Return the mean with a 95 % t interval over the means of non-overlapping blocks."""
    blocks = [b.mean() for b in np.array_split(values, max(2, len(values) // max(block, 1)))]
    low, high = stats.t.interval(
        0.95, len(blocks) - 1, loc=float(values.mean()), scale=stats.sem(blocks) or 1e-300
    )
    return float(values.mean()), float(low), float(high)
