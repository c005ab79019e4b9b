"""SimpleLSTM: one direction, the forward half of a bidirectional encoder, its schedule proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_kit import encoder_tensors, same_weights, windows, write_encoder
from sklearn.base import clone

from moola.config.training import ENCODER_MODELS, FinetuneConfig
from moola.errors import CheckpointError
from moola.models import REGISTRY
from moola.models.pretrained_utils import load_pretrained_strict
from moola.models.simple_lstm import SimpleLSTM, SimpleLSTMModel
from moola.training.finetune import finetune


def config(path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        model="simple_lstm",
        preset="compact",
        pretrained_encoder=str(path),
        unfreeze_after=2,
        epochs=4,
        batch_size=8,
        patience=0,
    )


def test_parameters_by_hand() -> None:
    # LSTM: 4 gates x 32 x (4 + 32 weights and two biases); classifier: 32 x 2 + 2
    assert SimpleLSTMModel().num_parameters == 4 * 32 * (4 + 32 + 2) + 66 == 4930


def test_a_bar_changed_at_the_end_matters_and_the_features_do_not() -> None:
    torch.manual_seed(0)
    net = SimpleLSTM(num_classes=2, hidden_size=8).eval()
    x, features = torch.randn(3, 10, 4), torch.randn(3, 20)
    logits = net(x, features)
    assert torch.equal(logits, net(x, -features))
    changed = x.clone()
    changed[:, -1] += 1
    assert not torch.allclose(logits, net(changed, features))


def test_it_takes_the_forward_half_of_a_bidirectional_encoder(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "e")
    net = SimpleLSTMModel().build_net(2)
    report = load_pretrained_strict(net, path)
    assert report["num_matched"] == 4
    assert report["match_ratio_encoder"] == report["match_ratio_checkpoint"] == 1.0
    assert len(report["ignored"]) == 4
    assert all(name.endswith("_reverse") for name in report["ignored"])
    assert report["unexpected"] == ()
    given = encoder_tensors(num_layers=1, hidden=32)
    assert all(torch.equal(t, given[n]) for n, t in net.encoder.state_dict().items())


def test_the_first_layer_s_forward_half_of_any_bilstm_is_taken(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "e", num_layers=2)
    report = load_pretrained_strict(SimpleLSTMModel().build_net(2), path)
    assert (report["num_matched"], report["num_ignored"], report["num_unexpected"]) == (4, 12, 0)
    two = SimpleLSTMModel(num_layers=2).build_net(2)
    with pytest.raises(CheckpointError, match="another shape"):  # its second layer reads one way
        load_pretrained_strict(two, path)


@pytest.mark.medium
def test_fine_tuning_follows_and_proves_the_schedule(tmp_path: Path) -> None:
    X, y = windows()
    result = finetune(config(write_encoder(tmp_path / "e")), X, y, device="cpu")
    assert result.proof is not None
    assert result.proof["proven"]
    assert result.load_report is not None
    assert result.load_report["num_ignored"] == 4
    result.model.save(tmp_path / "m")
    back = SimpleLSTMModel.load(tmp_path / "m")
    assert np.array_equal(back.predict_proba(X), result.model.predict_proba(X))


@pytest.mark.medium
def test_clone_and_parameters_know_the_training_arguments() -> None:
    X, y = windows()
    model = SimpleLSTMModel(hidden_size=4, n_epochs=2, focal_gamma=1.5)
    copy = clone(model.set_params(learning_rate=0.01))
    assert copy.get_params() == model.get_params()
    assert copy.get_params()["learning_rate"] == 0.01
    assert len(copy.get_params()) == 20
    assert same_weights(model.fit(X, y).net_, copy.fit(X, y).net_)
    with pytest.raises(TypeError, match="epochs"):
        SimpleLSTMModel(epochs=3)
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        model.set_params(epochs=3)


def test_the_configuration_knows_who_takes_an_encoder() -> None:
    assert set(ENCODER_MODELS) == {name for name, e in REGISTRY.items() if e.takes_encoder}
