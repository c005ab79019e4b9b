"""The legacy nets: each learns 32 windows by heart, looks back only where it says so, is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_kit import windows
from torch import nn

from moola.errors import ConfigError
from moola.models import ModelRegistry, get_model
from moola.models.models_extras.rwkv_ts import TimeMixing
from moola.models.models_extras.tcn import TCN

PATHS = {name: entry.path for name, entry in ModelRegistry.LEGACY.items()}


def test_a_legacy_name_says_how_to_re_enable_it_and_its_path_works() -> None:
    assert list(PATHS) == ["tcn", "transformer_lstm", "rwkv_ts", "cnn_transformer"]
    with pytest.raises(ValueError, match=r"Model 'tcn' is legacy\. See models_extras/README\.md"):
        get_model("tcn")
    for path in PATHS.values():
        assert get_model(path).model_name == path
    readme = Path(get_model.__code__.co_filename).parent / "models_extras" / "README.md"
    assert all(f"`{name}`" in readme.read_text() for name in PATHS)


@pytest.mark.medium
@pytest.mark.parametrize("name", list(PATHS))
def test_it_learns_32_windows_by_heart(name: str, tmp_path: Path) -> None:
    X, _ = windows(32, bars=21)
    y = np.random.default_rng(4).integers(0, 2, 32)
    sizes = {"num_channels": 16, "num_blocks": 3} if name == "tcn" else {"width": 16}
    training = {"n_epochs": 250, "batch_size": 32, "learning_rate": 0.005, "seed": 1}
    model = get_model(PATHS[name], **training, **sizes)
    if "dropout" in model.get_params():
        model.set_params(dropout=0.0)
    model.fit(X, y)
    assert (model.predict(X) == y).all()
    model.save(tmp_path / "m")
    back = type(model).load(tmp_path / "m")
    assert np.abs(back.predict_proba(X) - model.predict_proba(X)).max() < 1e-6


def test_tcn_never_looks_ahead() -> None:
    torch.manual_seed(0)
    net = TCN(num_classes=2, num_channels=4, num_blocks=2).eval()
    x = torch.randn(1, 4, 12)
    changed = x.clone()
    changed[..., 8] += 1
    first, second = x, changed
    for block in net.blocks:
        first, second = block(first), block(second)
    assert torch.equal(first[..., :8], second[..., :8])
    assert not torch.allclose(first[..., 8:], second[..., 8:])


def test_wkv_by_the_sum_it_stands_for() -> None:
    torch.manual_seed(1)
    mixing = TimeMixing(3)
    nn.init.normal_(mixing.bonus)
    k, v = torch.randn(2, 6, 3) * 3, torch.randn(2, 6, 3)
    found = mixing.wkv(k, v)
    w, u = torch.exp(mixing.decay), mixing.bonus
    for t in range(6):
        weights = [torch.exp(k[:, i] - (t - 1 - i) * w) for i in range(t)]
        weights.append(torch.exp(u + k[:, t]))
        total = sum(a * v[:, i] for i, a in enumerate(weights))
        assert torch.allclose(found[:, t], total / sum(weights), atol=1e-5)


def test_heads_must_divide_the_width() -> None:
    X, y = windows()
    with pytest.raises(ConfigError, match="num_heads is 3; expected a divisor of the width, 32"):
        get_model(PATHS["transformer_lstm"], num_heads=3).fit(X, y)
