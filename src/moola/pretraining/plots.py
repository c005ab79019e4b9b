"""Figures of a pretraining: reconstructed windows, loss curves, the spectrum of the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moola.evaluation.pages.plots import BLUE, INK, PALE, RED, SOFT, blank_figure
from moola.pretraining.quality import Reconstruction


def reconstruction_figure(reconstruction: Reconstruction, windows: Sequence[int]) -> Figure:
    """Draw close, high and low of some windows, what was hidden shaded, and what was put there."""
    figure, axes = _panels(len(windows), height=2.1)
    bar = np.arange(reconstruction.mask.shape[1])
    for axis, row in zip(axes, windows, strict=True):
        hidden = reconstruction.mask[row]
        edges = np.flatnonzero(np.diff(np.r_[0, hidden.astype(int), 0]))
        for begin, end in edges.reshape(-1, 2):
            axis.axvspan(begin - 0.5, end - 0.5, color=PALE, zorder=0)
        truth, guess, line = (
            x[row] for x in (reconstruction.truth, reconstruction.model, reconstruction.linear)
        )
        axis.fill_between(bar, truth[:, 2], truth[:, 1], color=SOFT, alpha=0.35, linewidth=0)
        axis.plot(bar, truth[:, 3], color=INK, linewidth=1, label="close, range")
        for values, colour, name in ((guess, RED, "model"), (line, BLUE, "linear")):
            shown = np.where(hidden[:, None], values, np.nan)
            axis.plot(bar, shown[:, 3], color=colour, linewidth=1.4, label=name)
            if name == "model":
                axis.plot(bar, shown[:, 1:3], color=colour, linewidth=0.7, linestyle=":")
        axis.set_ylabel(f"window {row}", fontsize=8)
    axes[0].legend(fontsize=8, frameon=False, ncols=3, loc="upper left")
    axes[-1].set_xlabel("bar", fontsize=8)
    return figure


def history_figure(history: Sequence[Mapping[str, float]], curves: Sequence[str]) -> Figure:
    """Draw figures of the history against epochs, on a logarithmic axis where all are positive."""
    figure, (axis,) = _panels(1, height=3.2)
    epochs = [row["epoch"] + 1 for row in history]
    colours = (BLUE, RED, INK, SOFT)
    for colour, name in zip(colours, curves, strict=False):
        axis.plot(epochs, [row[name] for row in history], color=colour, label=name, marker=".")
    if all(row[name] > 0 for row in history for name in curves):
        axis.set_yscale("log")
    axis.set_xlabel("epoch", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return figure


def spectrum_figure(share_D: NDArray[np.float64], effective_rank: float) -> Figure:
    """Draw the share of variance of each principal direction of the embedding, largest first."""
    figure, (axis,) = _panels(1, height=3.0)
    axis.semilogy(np.arange(1, len(share_D) + 1), np.maximum(share_D, 1e-12), color=BLUE)
    axis.axvline(effective_rank, color=RED, linewidth=1, linestyle="--")
    axis.set_xlabel(f"direction; dashed: effective rank {effective_rank:.1f}", fontsize=8)
    axis.set_ylabel("share of variance", fontsize=8)
    axis.set_ylim(1e-8, 1.2)
    return figure


def _panels(count: int, *, height: float) -> tuple[Figure, list[Any]]:
    figure = blank_figure(7.2, height * count + 0.4)
    axes = [figure.add_subplot(count, 1, i + 1) for i in range(count)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes
