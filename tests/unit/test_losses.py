"""Losses by hand: class weights, focal loss, mixed labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from moola.errors import BadInput
from moola.models.fitting.losses import ClassificationLoss, class_weights


def test_class_weights_by_hand() -> None:
    target = np.array([0, 0, 0, 1])
    assert class_weights(None, target) is None
    assert class_weights("balanced", target).tolist() == pytest.approx([4 / 6, 2.0])
    assert class_weights("1, 2.5", target).tolist() == [1.0, 2.5]
    for spec in ("1", "1,0", "1,nan", "1,-2", "one,two", "inf,1"):
        with pytest.raises(BadInput, match="class_weight is"):
            class_weights(spec, target)


def test_focal_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
    target = torch.tensor([0, 0])
    expected = (0.2**2 * -math.log(0.8) + 0.6**2 * -math.log(0.4)) / 2
    assert float(ClassificationLoss(focal_gamma=2.0)(logits, target)) == pytest.approx(expected)
    weighted = ClassificationLoss(torch.tensor([1.0, 3.0]), 2.0)
    found = float(weighted(logits, torch.tensor([0, 1])))
    first, second = 0.2**2 * -math.log(0.8), 0.4**2 * -math.log(0.6)
    assert found == pytest.approx((first + 3 * second) / 4)


def test_focal_loss_with_gamma_0_and_whole_shares_is_cross_entropy() -> None:
    logits, target = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for weight in (None, torch.tensor([1.0, 2.0, 0.5])):
        loss = ClassificationLoss(weight)
        plain = nn.functional.cross_entropy(logits, target, weight=weight)
        mixed = loss(logits, target, target.flip(0), torch.ones(7))
        assert float(loss(logits, target)) == float(plain)
        assert float(mixed) == pytest.approx(float(plain), rel=1e-5)


def test_mixed_labels_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2]]))
    loss = ClassificationLoss()(logits, torch.tensor([0]), torch.tensor([1]), torch.tensor([0.75]))
    assert float(loss) == pytest.approx(-0.75 * math.log(0.8) - 0.25 * math.log(0.2))
