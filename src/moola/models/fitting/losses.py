"""The training loss: cross-entropy, class weights, focal loss, mixed labels."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from moola.errors import BadInput

BALANCED = "balanced"


def class_weights(spec: str | None, target: NDArray[np.int64]) -> torch.Tensor | None:
    """Return the weight of each class in the loss, shape (K,).

    Parameters
    ----------
    spec
        None; ``"balanced"``, n / (K * n_k); or K numbers above 0, such as ``"1,2.5"``.
    target
        Class indices of the training windows, shape (n,); each of the K classes occurs.

    Returns
    -------
    Tensor or None
        float32; None where `spec` is.

    Raises
    ------
    BadInput
        If it is none of these.
    """
    if spec is None:
        return None
    counts = np.bincount(target)
    if spec == BALANCED:
        return torch.tensor(len(target) / (len(counts) * counts), dtype=torch.float32)
    try:
        values = [float(part) for part in str(spec).split(",")]
    except ValueError:
        values = []
    if len(values) != len(counts) or not all(math.isfinite(v) and v > 0 for v in values):
        raise BadInput(
            f"class_weight is {spec!r}",
            limit=f"{BALANCED!r}, or {len(counts)} numbers above 0 such as '1,2.5'",
        )
    return torch.tensor(values, dtype=torch.float32)


class ClassificationLoss:
    """Weighted mean over windows of ``(1 - p)^gamma * -log p``, p the true class's probability.

    With gamma 0 it is the cross-entropy. Focal loss: Lin et al. (2017), with the class weights in
    the place of their alpha. A window of mixed classes counts for each by its share.

    Parameters
    ----------
    weight
        Of each class, shape (K,), or None.
    focal_gamma
        At least 0; the larger, the less the easy windows count.

    Raises
    ------
    BadInput
        If `focal_gamma` is negative or not a number.
    """

    def __init__(self, weight: torch.Tensor | None = None, focal_gamma: float = 0.0):
        if not (math.isfinite(focal_gamma) and focal_gamma >= 0):
            raise BadInput(f"focal_gamma is {focal_gamma}", limit="a number of at least 0")
        self.weight = weight
        self.focal_gamma = focal_gamma

    def __call__(
        self,
        logits_NK: torch.Tensor,
        target_N: torch.Tensor,
        other_N: torch.Tensor | None = None,
        share_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss, a scalar; `share_N` is the first class's share where there are two."""
        if other_N is None or share_N is None:
            if not self.focal_gamma:
                return functional.cross_entropy(logits_NK, target_N, weight=self.weight)
            total, weight = self._sum(logits_NK, target_N, torch.ones_like(logits_NK[:, 0]))
            return total / weight
        first, second = (
            self._sum(logits_NK, target_N, share_N),
            self._sum(logits_NK, other_N, 1.0 - share_N),
        )
        return (first[0] + second[0]) / (first[1] + second[1])

    def _sum(
        self, logits_NK: torch.Tensor, target_N: torch.Tensor, share_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = functional.log_softmax(logits_NK, dim=1)
        log_p = log_p.gather(1, target_N[:, None])[:, 0]
        weight = share_N if self.weight is None else share_N * self.weight[target_N]
        loss = -log_p * (1.0 - log_p.exp()).clamp_min(0) ** self.focal_gamma
        return (weight * loss).sum(), weight.sum()
