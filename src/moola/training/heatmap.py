"""The weight-evolution heat map: which tensor moved how far in which epoch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from moola.errors import BadInput
from moola.evaluation.pages.plots import INK, RED, blank_figure, with_fixed_layout
from moola.models.weights.net_tensors import BUFFER

_FROZEN = "#e4e8ec"
_FLOOR = 1e-4


def evolution_figure(evolution: pa.Table, title: str) -> Figure:
    """Draw one row a tensor and one column an epoch, coloured by the change since the load.

    Frozen cells are grey; a cell that should have trained and has not moved at all is red (a buffer
    need not move). The encoder's tensors are above the line, the head's below.

    Parameters
    ----------
    evolution
        Of ``FinetuneResult.evolution``: columns ``epoch tensor part requires_grad moved_in_epoch
        change_since_load``; ``kind`` and ``frozen`` tell buffers, which older tables do not have.
    title
        Above the figure.

    Returns
    -------
    Figure
        One page, the higher the more tensors.

    Raises
    ------
    BadInput
        If the table holds no row.
    """
    rows = evolution.to_pylist()
    if not rows:
        raise BadInput("the weight evolution holds no epoch", limit="at least one")
    parts = {r["tensor"]: r["part"] for r in rows}
    tensors = sorted(parts, key=lambda name: (parts[name] != "encoder", list(parts).index(name)))
    place = {name: i for i, name in enumerate(tensors)}
    num_epochs = max(r["epoch"] for r in rows) + 1
    change = np.full((len(tensors), num_epochs), np.nan)
    still = np.zeros(change.shape, dtype=bool)
    for row in rows:
        cell = place[row["tensor"]], row["epoch"]
        is_buffer = row.get("kind") == BUFFER
        if not row["frozen"] if is_buffer else row["requires_grad"]:
            change[cell] = max(row["change_since_load"] or 0.0, _FLOOR)
            still[cell] = not (is_buffer or row["moved_in_epoch"])
    height = 0.17 * len(tensors) + 1.4
    figure = blank_figure(7.2, height)
    _draw(figure, change, still, tensors)
    figure.axes[0].axhline(list(parts.values()).count("encoder") - 0.5, color=INK, linewidth=1)
    figure.axes[0].set_title(title, fontsize=10, loc="left", color=INK)
    return with_fixed_layout(figure)


def _draw(figure: Figure, change: np.ndarray, still: np.ndarray, tensors: list[str]) -> None:
    axes = figure.add_subplot()
    axes.set_facecolor(_FROZEN)
    top = np.nanmax(change) if np.isfinite(change).any() else 1.0
    image = axes.imshow(
        change,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        norm=LogNorm(vmin=_FLOOR, vmax=max(float(top), 10 * _FLOOR)),
    )
    for row, column in np.argwhere(still):
        axes.plot(column, row, "s", color=RED, markersize=3)
    axes.set_yticks(range(len(tensors)), tensors, fontsize=6)
    last = change.shape[1]
    step = max(1, last // 12)
    ticks = range(0, last, step)
    axes.set_xticks(ticks, [str(t + 1) for t in ticks], fontsize=8)
    axes.set_xlabel("epoch; grey: frozen, red: should have moved and did not", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.04)
    bar.set_label("change since load, |w - w0| / |w0|", fontsize=8)
    bar.ax.tick_params(labelsize=7)
