"""Two checkpoints side by side: what moved, what does not fit, what still is as initialised."""

from __future__ import annotations

import json

import pytest
import torch
from finetune_kit import encoder_tensors, fit, prefixed

from moola.models.weights.checkpoint import Checkpoint
from moola.models.weights.freeze import FreezeCallback, make_schedule
from moola.training.compare_checkpoints import compare_checkpoints, init_signal


def checkpoint(tensors: dict[str, torch.Tensor], form: str = "folder") -> Checkpoint:
    return Checkpoint(tensors=tensors, config={}, sha256="0" * 64, form=form)


def test_a_frozen_encoder_is_equal_to_the_bit_whatever_its_prefix() -> None:
    encoder = encoder_tensors()
    a = checkpoint(encoder, "encoder_state_dict")
    head = {"classifier.weight": torch.ones(2, 2)}
    found = compare_checkpoints(a, checkpoint(prefixed(encoder, "module.lstm.") | head))
    assert len(found.encoder_pairs()) == len(found.pairs) == 16
    assert all(p.equal and p.relative_change == 0.0 for p in found.pairs)
    assert (found.only_a, found.only_b) == ((), ("classifier.weight",))
    assert found.findings()[0] == (
        "all 16 encoder tensors are equal to the bit: no training step touched the encoder "
        "between A and B (frozen all along)"
    )


def test_movement_is_measured_in_norms() -> None:
    encoder = encoder_tensors()
    moved = {k: v.clone() for k, v in encoder.items()}
    moved["bias_hh_l0"] = torch.zeros(16)
    moved["bias_hh_l0"][0] = 3.0
    encoder["bias_hh_l0"] = torch.zeros(16)
    encoder["bias_hh_l0"][0] = 2.0
    moved["weight_ih_l1"] = encoder["weight_ih_l1"] * 1.25
    found = compare_checkpoints(checkpoint(encoder), checkpoint(moved), names=("old", "new"))
    pairs = {p.name: p for p in found.pairs}
    assert pairs["bias_hh_l0"].largest_difference == 1.0
    assert pairs["bias_hh_l0"].relative_change == 0.5
    assert pairs["weight_ih_l1"].relative_change == pytest.approx(0.25)
    assert sum(p.equal for p in found.pairs) == 14
    assert found.findings()[0].startswith(
        "2 of 16 encoder tensors differ, by 25.0% to 50.0% of their norm; equal: bias_hh_l0_reverse"
    )


def test_layer_mismatch_is_diagnosed_with_the_number_of_layers() -> None:
    two, one = encoder_tensors(num_layers=2), encoder_tensors(num_layers=1)
    for first, second in ((two, one), (one, two)):
        found = compare_checkpoints(checkpoint(first), checkpoint(second))
        assert {found.layers_a, found.layers_b} == {1, 2}
        assert "1 layer takes 8 of 16 encoder tensors: use num_layers=2" in found.findings()[0]
    assert len(compare_checkpoints(checkpoint(two), checkpoint(one)).only_a) == 8


def test_shapes_that_differ_and_nothing_in_common() -> None:
    small, large = encoder_tensors(), encoder_tensors(hidden=8)
    found = compare_checkpoints(checkpoint(small), checkpoint(large)).findings()
    assert found[0].startswith(
        "16 encoder tensors differ in shape, first bias_hh_l0: [16] and [32]"
    )
    assert "no encoder tensor in common" in found[1]
    other = compare_checkpoints(checkpoint(small), checkpoint({"conv": torch.ones(2)}))
    assert other.findings() == ["the two have no encoder tensor in common"]


def test_identical_checkpoints_are_called_so() -> None:
    encoder = encoder_tensors()
    found = compare_checkpoints(checkpoint(encoder), checkpoint(dict(encoder)))
    assert found.findings()[0] == "all 16 common tensors are equal to the bit"
    assert json.dumps(found.to_dict())


def test_a_fresh_lstm_looks_as_initialised_and_a_shrunk_or_grown_one_does_not() -> None:
    for hidden in (4, 32, 128):
        fresh = encoder_tensors(hidden=hidden, seed=hidden)
        for name, tensor in fresh.items():
            signal = init_signal(name, tensor)
            assert signal is not None
            assert signal.verdict == "as initialised", (hidden, name, signal)
            assert signal.expected_std == pytest.approx((3 * hidden) ** -0.5)
    weights = encoder_tensors(hidden=32)["weight_hh_l0"]
    shrunk, grown = init_signal("weight_hh_l0", weights * 0.8), init_signal("weight_hh_l0", weights)
    assert shrunk is not None
    assert grown is not None
    assert shrunk.verdict == "trained"
    assert shrunk.z < -4
    weights[0, 0] = 0.2  # beyond 1 / sqrt(32) = 0.1768
    one = init_signal("weight_hh_l0", weights)
    assert one is not None
    assert (one.verdict, one.beyond_bound) == ("trained", 1 / weights.numel())
    assert init_signal("classifier.weight", weights) is None


def test_a_std_of_0_0510_at_hidden_128_is_the_initialiser_and_no_sign_of_training() -> None:
    """The known report took it for trained, against a Xavier spread that an LSTM never has."""
    weights = encoder_tensors(hidden=128)["weight_hh_l0"]
    assert float(weights.std()) == pytest.approx(0.0510, abs=2e-4)
    signal = init_signal("weight_hh_l0", weights)
    assert signal is not None
    assert signal.expected_std == pytest.approx(0.05103, abs=1e-5)
    assert signal.verdict == "as initialised"
    grown = init_signal("weight_hh_l1", weights * (0.0578 / 0.0510))
    assert grown is not None
    assert grown.verdict == "trained"


@pytest.mark.medium
def test_training_is_seen_in_a_real_run() -> None:
    schedule = make_schedule("frozen")
    model, _ = fit(schedule, FreezeCallback(schedule))
    again, _ = fit(make_schedule("none"), FreezeCallback(make_schedule("none")))
    fresh = checkpoint(model.net_.state_dict())  # frozen from its initialisation
    found = compare_checkpoints(fresh, checkpoint(again.net_.state_dict()))
    assert "A: all 16 common encoder tensors look as initialised" in found.findings()
    assert found.findings()[0].startswith("16 of 16 encoder tensors differ")
