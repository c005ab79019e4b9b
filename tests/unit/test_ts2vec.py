"""TS2Vec: the encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from moola.errors import ConfigError
from moola.models.ts2vec import TS2VecEncoder


def small(**shape: float) -> TS2VecEncoder:
    torch.manual_seed(0)
    return TS2VecEncoder(**{"hidden_dim": 5, "output_dim": 7, "depth": 3, **shape}).eval()


def test_a_vector_for_every_step_and_one_for_the_window() -> None:
    encoder = small()
    x = torch.randn(2, 20, 4)
    states = encoder(x)
    assert states.shape == (2, 20, 7)
    assert torch.equal(encoder.encode(x), states.max(dim=1).values)
    assert encoder.output_dim == 7


def test_a_step_reaches_as_far_as_the_dilations_say() -> None:
    encoder = small()  # dilations 1, 2, 4, 8, two convolutions each: 2 * 15 steps to either side
    x = torch.randn(1, 101, 4)
    changed = x.clone()
    changed[0, 50] += 1
    moved = (encoder(x) - encoder(changed)).abs().amax(dim=2)[0] > 0
    assert moved.nonzero().flatten()[[0, -1]].tolist() == [20, 80]


def test_wide_dilations_are_the_same_convolution() -> None:
    encoder = small(depth=5)  # dilations up to 32 on 12 steps: the outer taps see padding only
    x = torch.randn(3, 12, 4)
    states = encoder.input(x).transpose(1, 2)
    for block in encoder.blocks:
        inner = block.conv1(functional.gelu(states))
        side = states if block.projector is None else block.projector(states)
        states = side + block.conv2(functional.gelu(inner))
    assert torch.allclose(encoder(x), states.transpose(1, 2), atol=1e-6)


def test_a_hidden_step_does_not_show() -> None:
    encoder = small()
    x = torch.randn(2, 9, 4)
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[:, 4] = False
    changed = x.clone()
    changed[:, 4] += 3
    assert torch.equal(encoder(x, keep), encoder(changed, keep))
    assert not torch.equal(encoder(x), encoder(changed))


def test_the_default_shape_is_the_papers() -> None:
    encoder = TS2VecEncoder()
    assert len(encoder.blocks) == 11
    assert isinstance(encoder.input, nn.Linear)
    assert encoder(torch.zeros(1, 30, 4)).shape == (1, 30, 320)
    assert TS2VecEncoder(**encoder.shape).shape == encoder.shape
    with pytest.raises(ConfigError, match="depth is 0"):
        TS2VecEncoder(depth=0)
