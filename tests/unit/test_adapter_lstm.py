"""AdapterLSTM: the TS2Vec encoder comes in whole, stands still by phases, and that is proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_kit import CORPUS, windows

from moola.config.training import FinetuneConfig
from moola.errors import CheckpointError, ConfigError
from moola.models.adapter_lstm import AdapterLSTMModel
from moola.models.ts2vec import TS2VecEncoder
from moola.models.weights.checkpoint import save_checkpoint
from moola.training.finetune import build_model, finetune, schedule_of

pytestmark = pytest.mark.medium  # trains networks


def encoder(folder: Path, *, prefix: str = "encoder.") -> Path:
    torch.manual_seed(9)
    net = TS2VecEncoder(hidden_dim=8, output_dim=12, depth=3)
    tensors = {prefix + k: v for k, v in net.state_dict().items()}
    save_checkpoint(folder, tensors, {"corpus": CORPUS})
    return folder


def config(path: Path | None, **changes: object) -> FinetuneConfig:
    values: dict[str, object] = {
        "model": "adapter_lstm",
        "pretrained_encoder": str(path) if path else None,
        "freeze": "phases",
        "phases": (2, 1, 1),
        "epochs": 4,
        "batch_size": 8,
        "patience": 0,
        "learning_rate": 3e-3,
    }
    return FinetuneConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_the_adapter_and_the_head_are_small() -> None:
    model = AdapterLSTMModel()
    parts = {
        n: sum(p.numel() for p in m.parameters()) for n, m in model.build_net(2).named_children()
    }
    # layer norm 2 x 320 and 320 x 32 + 32; LSTM 4 x 24 x (32 + 24 + 2); classifier 24 x 2 + 2
    assert parts["adapter"] == 640 + 10_272
    assert parts["lstm_head"] + parts["classifier"] == 5568 + 50
    assert model.num_parameters == sum(parts.values())


@pytest.mark.parametrize("prefix", ["encoder.", "module.encoder."])
def test_the_encoder_comes_in_whole_in_the_shape_of_its_checkpoint(
    tmp_path: Path, prefix: str
) -> None:
    X, y = windows()
    chosen = config(encoder(tmp_path / "e", prefix=prefix), freeze="frozen", phases=(), epochs=1)
    result = finetune(chosen, X, y, device="cpu")
    assert result.load_report is not None
    assert result.load_report["match_ratio_encoder"] == 1.0
    assert result.load_report["num_unexpected"] == result.load_report["num_ignored"] == 0
    torch.manual_seed(9)
    given = TS2VecEncoder(hidden_dim=8, output_dim=12, depth=3).state_dict()
    kept = result.model.net_.encoder.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in given.items())


def test_phases_unfreeze_from_the_top_and_are_proven(tmp_path: Path) -> None:
    X, y = windows()
    chosen = config(encoder(tmp_path / "e"))
    schedule = schedule_of(chosen, build_model(chosen, "cpu"))
    names = [
        "encoder.input.weight",
        "encoder.blocks.0.conv1.weight",
        "encoder.blocks.1.conv1.weight",
        "encoder.blocks.2.conv1.weight",
        "encoder.blocks.3.projector.weight",
        "adapter.1.weight",
    ]
    assert [len(schedule.frozen_at(epoch, names)) for epoch in range(4)] == [5, 5, 3, 0]
    assert "encoder.blocks.1.conv1.weight" in schedule.frozen_at(2, names)
    result = finetune(chosen, X, y, device="cpu")
    assert result.proof is not None
    assert result.proof["proven"], result.proof["reasons"]
    result.model.save(tmp_path / "m")
    back = AdapterLSTMModel.load(tmp_path / "m")
    assert np.array_equal(back.predict_proba(X), result.model.predict_proba(X))


def test_an_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    X, y = windows()
    save_checkpoint(tmp_path / "lstm", {"encoder.weight_ih_l0": torch.ones(3)}, {"corpus": CORPUS})
    with pytest.raises(CheckpointError, match="expected a TS2Vec encoder"):
        finetune(config(tmp_path / "lstm"), X, y, device="cpu")


def test_more_phases_than_layers_are_refused(tmp_path: Path) -> None:
    chosen = config(encoder(tmp_path / "e"), phases=(1,) * 6, epochs=6)
    with pytest.raises(ConfigError, match="unfreezes in 5 steps; expected 1 to 4"):
        schedule_of(chosen, build_model(chosen, "cpu"))
