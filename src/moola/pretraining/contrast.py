"""TS2Vec's loss and views (Yue et al., AAAI 2022)."""

from __future__ import annotations

import torch
from torch.nn import functional

from moola.models.ts2vec import TS2VecEncoder

_KEEP_PROBABILITY = 0.5


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
