"""TS2Vec's loss and views (Yue et al., AAAI 2022)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from moola.data.windows import normalise
from moola.models.ts2vec import TS2VecEncoder

_KEEP_PROBABILITY = 0.5
_GROUP = 64  # windows among which a window's step is retrieved
_DRAWS = 4


def hierarchical_loss(
    first_NTD: torch.Tensor, second_NTD: torch.Tensor, *, instance_weight: float = 0.5
) -> torch.Tensor:
    """Return the contrastive loss of two views of the same steps, over all time scales.

    At each scale, a step's representation should find the same step's in the other view: among
    the steps of its own series (temporal), and among the same step of the batch's other series
    (instance). Scales follow by maximum over pairs of steps, until one step is left.

    Parameters
    ----------
    first_NTD, second_NTD
        Shape (n, T, D).
    instance_weight
        Share of the instance-wise part; the rest is the temporal one.

    Returns
    -------
    Tensor
        A scalar; 0 where no step and no series can be mistaken for another.
    """
    total = first_NTD.new_zeros(())
    scales = 0
    while True:
        total = total + instance_weight * _contrast(
            torch.cat([first_NTD, second_NTD]).transpose(0, 1)
        )
        scales += 1
        if first_NTD.shape[1] == 1:
            return total / scales
        total = total + (1 - instance_weight) * _contrast(torch.cat([first_NTD, second_NTD], dim=1))
        first_NTD, second_NTD = (
            functional.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2)
            for z in (first_NTD, second_NTD)
        )


def _contrast(z_GMD: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of finding row i's partner, row i + M/2, among all other rows of its group."""
    rows = z_GMD.shape[1]
    if rows == 2:  # nothing to be mistaken for
        return z_GMD.new_zeros(())
    likeness = torch.bmm(z_GMD, z_GMD.transpose(1, 2))
    diagonal = torch.eye(rows, dtype=torch.bool, device=z_GMD.device)
    likeness = likeness.masked_fill(diagonal, float("-inf"))
    partner = (torch.arange(rows, device=z_GMD.device) + rows // 2) % rows
    return functional.cross_entropy(likeness.reshape(-1, rows).float(), partner.repeat(len(z_GMD)))


def two_views(
    encoder: TS2VecEncoder, x_NTC: torch.Tensor, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode two random crops of each series and return the steps they share.

    Both crops contain the shared steps; one reaches further back, the other further on. Each
    series is cut at an offset of its own, and half of the latent steps are hidden at random.

    Parameters
    ----------
    encoder
        Called twice.
    x_NTC
        Shape (n, T, C).
    draw
        Generator on the CPU (crops are shapes, which the host must know).

    Returns
    -------
    Two tensors of shape (n, shared, D).
    """
    num, T = x_NTC.shape[:2]

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    shared = whole(min(2, T), T)
    begin = whole(0, T - shared)
    end = begin + shared
    back, on = whole(0, begin), whole(end, T)
    offset = torch.randint(-back, T - on + 1, (num,), generator=draw)
    first = _crop(x_NTC, offset + back, end - back)
    second = _crop(x_NTC, offset + begin, on - begin)
    views = []
    for crop in (first, second):
        keep = torch.rand(crop.shape[:2], generator=draw) < _KEEP_PROBABILITY
        views.append(encoder(crop, keep.to(x_NTC.device, non_blocking=True)))
    return views[0][:, -shared:], views[1][:, :shared]


def _crop(x_NTC: torch.Tensor, begin_N: torch.Tensor, length: int) -> torch.Tensor:
    place = begin_N[:, None] + torch.arange(length)
    row = torch.arange(len(x_NTC))[:, None]
    return x_NTC[row.to(x_NTC.device), place.to(x_NTC.device)]


@torch.inference_mode()
def retrieval_errors(encoder: TS2VecEncoder, X_NTC: NDArray, *, seed: int) -> NDArray[np.float64]:
    """Return each window's share of steps that are not retrieved from the other view, shape (n,).

    A step is retrieved if, of all steps of its window in both views, the most alike is itself in
    the other view; and again among the same step of the windows beside it. Half of the share is of
    each. Unlike the loss it does not depend on the scale of the representation, so that encoders
    can be compared.

    Parameters
    ----------
    encoder
        On the CPU, in evaluation mode.
    X_NTC
        Windows in price units, shape (n, T, 4).
    seed
        Seed of the crops, which are averaged over four draws.
    """
    draw = torch.Generator().manual_seed(seed)
    x_all = torch.from_numpy(normalise(np.asarray(X_NTC)))
    errors = [
        torch.stack([_missed(*two_views(encoder, x, draw)) for _ in range(_DRAWS)]).mean(dim=0)
        for x in x_all.split(_GROUP)
    ]
    return torch.cat(errors).double().numpy()


def _missed(first_NTD: torch.Tensor, second_NTD: torch.Tensor) -> torch.Tensor:
    within = _is_missed(torch.cat([first_NTD, second_NTD], dim=1)).mean(dim=1)
    among = _is_missed(torch.cat([first_NTD, second_NTD]).transpose(0, 1))
    return (within + among.reshape(len(among), 2, -1).mean(dim=(0, 1))) / 2


def _is_missed(z_GMD: torch.Tensor) -> torch.Tensor:
    """Return 1 where the row most like row i is not its partner, row i + M/2, shape (G, M)."""
    rows = z_GMD.shape[1]
    unit = functional.normalize(z_GMD, dim=2)
    likeness = torch.bmm(unit, unit.transpose(1, 2))
    likeness.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    partner = (torch.arange(rows) + rows // 2) % rows
    return (likeness.argmax(dim=2) != partner).float()
