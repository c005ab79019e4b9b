"""TS2Vec's loss, views and pretraining."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pretrain_kit import CLAIM, windows

from moola.config.pretraining import TS2VecConfig
from moola.errors import ConfigError
from moola.models.pretrained_utils import load_pretrained_strict
from moola.models.ts2vec import TS2VecEncoder
from moola.pretraining.contrast import hierarchical_loss, two_views
from moola.pretraining.distributed import Share
from moola.pretraining.session import Session, save_pretrained
from moola.pretraining.ts2vec_pretrain import (
    ENCODER_KIND,
    TS2VecModel,
    pretrain_ts2vec,
)

TINY = TS2VecConfig(
    hidden_dim=6, output_dim=8, depth=2, epochs=2, batch_size=8, windows_per_epoch=32, seed=1
)


def test_loss_by_hand_of_one_step() -> None:
    # Two series, one step, in one dimension: views 1, -1 and 2, -2. Row 1 against 2, -1, -2: its
    # partner is 2. Row 2 against 1, -1, -2: its partner is 1. The others mirror them.
    first, second = torch.tensor([[[1.0]], [[-1.0]]]), torch.tensor([[[2.0]], [[-2.0]]])
    one = -math.log(math.exp(2) / (math.exp(2) + math.exp(-1) + math.exp(-2)))
    two = -math.log(math.exp(2) / (math.exp(2) + math.exp(-2) + math.exp(-4)))
    loss = hierarchical_loss(first, second, instance_weight=0.5)
    assert float(loss) == pytest.approx(0.5 * (one + two) / 2, rel=1e-5)


def test_loss_by_hand_of_one_series() -> None:
    # One series has nobody to be mistaken for: two steps give one temporal scale of two.
    first, second = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[[1.0], [-1.0]]])
    right = math.exp(1) / (math.exp(1) + 2 * math.exp(-1))
    loss = hierarchical_loss(first, second, instance_weight=0.5)
    assert float(loss) == pytest.approx(0.5 * -math.log(right) / 2, rel=1e-5)


def test_views_are_of_the_same_steps() -> None:
    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            assert x.shape[:2] == keep.shape
            return x

    x = torch.arange(5 * 20, dtype=torch.float32).reshape(5, 20, 1)
    draw = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(50):
        first, second = two_views(Echo(), x, draw)  # type: ignore[arg-type]
        assert torch.equal(first, second)
        assert (first[:, 1:] - first[:, :-1] == 1).all()
        lengths.add(first.shape[1])
    assert min(lengths) < 6
    assert max(lengths) > 15


@pytest.mark.medium
def test_pretraining_is_deterministic_resumes_and_loads(tmp_path: Path) -> None:
    X = windows(90, 16)
    whole = pretrain_ts2vec(X, TINY, Session(device="cpu"))
    state = tmp_path / "state.safetensors"

    def stop(row: dict[str, float], total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_ts2vec(X, TINY, Session(device="cpu", state_path=state, on_epoch=stop))
    again = pretrain_ts2vec(X, TINY, Session(device="cpu", state_path=state, resume=True))
    assert again.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name

    save_pretrained(tmp_path / "encoder", ENCODER_KIND, whole, TINY, CLAIM)
    x = torch.randn(2, 16, 4)
    target = TS2VecModel(hidden_dim=6, output_dim=8, depth=2).eval()
    report = load_pretrained_strict(target, tmp_path / "encoder")
    assert report["match_ratio_encoder"] == 1.0
    assert isinstance(target.encoder, TS2VecEncoder)
    assert torch.equal(target.encoder(x), whole.model.encoder(x))


def test_parts_of_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 processes"):
        pretrain_ts2vec(windows(90, 16), TINY, Session(device="cpu", share=Share(rank=0, size=2)))
