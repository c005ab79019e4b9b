"""Proof of a schedule: runs that break their word, each by its own fault, are found out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from finetune_kit import encoder_tensors, estimator, prefixed, windows

from moola.errors import BadInput, ProofError
from moola.evaluation.plots import figure_to_png
from moola.models.callbacks import Callback, FitState
from moola.models.checkpoint import Checkpoint
from moola.training.compare_checkpoints import compare_checkpoints, init_signal
from moola.training.forensics import WeightEvolution
from moola.training.freeze import FreezeCallback, FreezeSchedule, make_schedule
from moola.training.heatmap import evolution_figure

TWO_PHASE = {"unfreeze_after": 2, "num_layers": 2}


def fit(schedule: FreezeSchedule, freezer: Callback, *more: Callback, **params: Any) -> Any:
    X, y = windows()
    evolution = WeightEvolution(schedule)
    model = estimator(**{"n_epochs": 4, **params})
    model.fit(X, y, callbacks=[freezer, *more, evolution])
    return model, evolution


@pytest.mark.parametrize("name", ["none", "frozen", "two_phase"])
def test_a_run_that_keeps_its_word_is_proven(name: str) -> None:
    schedule = make_schedule(name, **TWO_PHASE)
    model, evolution = fit(schedule, FreezeCallback(schedule))
    proof = evolution.proof()
    assert (proof["schedule"], proof["proven"], proof["reasons"]) == (name, True, [])
    expected = {
        "none": [([0, 3], 0, 16)],
        "frozen": [([0, 3], 16, 0)],
        "two_phase": [([0, 1], 16, 0), ([2, 3], 0, 16)],
    }[name]
    found = [
        (p["epochs"], p["encoder_tensors_frozen"], p["encoder_tensors_moved"])
        for p in proof["phases"]
    ]
    assert found == expected
    assert (proof["phases"][0]["largest_change_since_load"] == 0.0) == (name != "none")
    norms = [row["grad_norm_encoder"] == 0.0 for row in model.history_]
    assert (
        norms
        == {
            "none": [False] * 4,
            "frozen": [True] * 4,
            "two_phase": [True, True, False, False],
        }[name]
    )
    assert all(row["grad_norm_head"] > 0 for row in model.history_)


def test_gradual_moves_one_layer_after_the_other() -> None:
    schedule = make_schedule("gradual", unfreeze_after=1, num_layers=2)
    _, evolution = fit(schedule, FreezeCallback(schedule))
    moved = [p["encoder_tensors_moved"] for p in evolution.proof()["phases"]]
    assert moved == [0, 8, 16]


def test_every_tensor_and_epoch_has_a_row_whose_figures_are_right() -> None:
    class Keep(Callback):
        def on_fit_begin(self, state: FitState) -> None:
            self.start = state.net.norm.weight.detach().clone()

        def on_epoch_end(self, state: FitState) -> None:
            self.end = state.net.norm.weight.detach().clone()

    schedule, keep = make_schedule("two_phase", **TWO_PHASE), Keep()
    model, evolution = fit(schedule, FreezeCallback(schedule), keep)
    table = evolution.to_table()
    assert table.num_rows == 4 * len(list(model.net_.parameters()))
    rows = [r for r in table.to_pylist() if r["tensor"] == "norm.weight"]
    assert [r["epoch"] for r in rows] == [0, 1, 2, 3]
    assert {r["part"] for r in rows} == {"head"}
    expected = (keep.end - keep.start).norm() / keep.start.norm()
    assert rows[-1]["change_since_load"] == pytest.approx(float(expected))
    assert all(r["requires_grad"] and r["grad_norm"] > 0 and r["moved_in_epoch"] for r in rows)
    zero = [r for r in table.to_pylist() if r["tensor"] == "norm.bias"]
    assert [r["change_since_load"] for r in zero] == pytest.approx([1.0] * 4)  # it starts at 0
    frozen = [r for r in table.to_pylist() if r["tensor"] == "encoder.bias_hh_l1"]
    assert [r["requires_grad"] for r in frozen] == [False, False, True, True]
    assert [r["grad_norm"] > 0 for r in frozen] == [False, False, True, True]


def test_the_gradient_norm_is_the_root_mean_square_over_batches() -> None:
    class Norms(Callback):
        squares: tuple[float, ...] = ()

        def on_gradients(self, state: FitState) -> None:
            self.squares += (float(state.net.norm.bias.grad.square().sum()),)

    schedule, norms = make_schedule("none"), Norms()
    _, evolution = fit(schedule, FreezeCallback(schedule), norms, n_epochs=1)
    row = next(r for r in evolution.rows if r["tensor"] == "norm.bias")
    assert len(norms.squares) == 3
    assert row["grad_norm"] == pytest.approx(np.mean(norms.squares) ** 0.5, rel=1e-5)


class MovesFrozen(FreezeCallback):
    """Writes into a frozen tensor."""

    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 1:
            with torch.no_grad():
                state.net.encoder.weight_hh_l1[0, 0] += 1e-3


class StepsFrozen(FreezeCallback):
    """Forgets to take frozen tensors out of the optimiser."""

    def on_epoch_begin(self, state: FitState) -> None:
        everything = list(state.optimizer.param_groups[0]["params"])
        super().on_epoch_begin(state)
        state.optimizer.param_groups[0]["params"] = everything


class NeverUnfreezes(FreezeCallback):
    """The old meaning: `unfreeze_after` 0 is never, a later epoch is missed."""

    def on_epoch_begin(self, state: FitState) -> None:
        epoch, state.epoch = state.epoch, 0
        super().on_epoch_begin(state)
        state.epoch = epoch


class ForgetsOptimiser(FreezeCallback):
    """Sets requires_grad at the unfreezing, but the optimiser does not know the encoder."""

    def on_epoch_begin(self, state: FitState) -> None:
        super().on_epoch_begin(state)
        own = {id(p) for p in state.net.encoder.parameters()}
        group = state.optimizer.param_groups[0]
        group["params"] = [p for p in group["params"] if id(p) not in own]


class ZeroGradient(FreezeCallback):
    """The unfrozen encoder gets no gradient for a whole epoch, as behind a detach."""

    def on_gradients(self, state: FitState) -> None:
        if state.epoch == 2:
            state.net.encoder.weight_ih_l0.grad.zero_()


class RateZero(FreezeCallback):
    """Unfreezes with a learning rate so small that nothing moves."""

    def on_epoch_begin(self, state: FitState) -> None:
        super().on_epoch_begin(state)
        if state.epoch == 2:
            state.optimizer.param_groups[0].update(lr=0.0, weight_decay=0.0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (StepsFrozen, r"frozen tensor stands in the optimiser: encoder\.weight_ih_l0 in epoch 1"),
        (NeverUnfreezes, r"tensor stayed frozen: encoder\.weight_ih_l0 in epoch 3"),
        (ForgetsOptimiser, r"unfrozen tensor is not in the optimiser: encoder\.\S+ in epoch 3"),
        (ZeroGradient, r"no gradient in a whole epoch: encoder\.weight_ih_l0 in epoch 3"),
        (RateZero, r"unfrozen tensor did not move: encoder\.weight_ih_l0 in epoch 3"),
    ],
)
def test_a_run_that_breaks_its_word_ends_at_that_epoch(
    broken: type[FreezeCallback], message: str
) -> None:
    schedule = make_schedule("two_phase", **TWO_PHASE)
    with pytest.raises(ProofError, match=message) as caught:
        fit(schedule, broken(schedule))
    assert str(caught.value).startswith("freeze schedule two_phase was not carried out")


def test_a_frozen_tensor_that_moved_ends_the_run() -> None:
    schedule = make_schedule("frozen")
    with pytest.raises(ProofError, match=r"frozen tensor moved: encoder\.weight_hh_l1 in epoch 2"):
        fit(schedule, MovesFrozen(schedule))


def test_a_head_that_never_trained_ends_the_run() -> None:
    """The schedule itself freezes every part of the head; only the encoder trains."""

    class HeadStill(FreezeCallback):
        def on_epoch_begin(self, state: FitState) -> None:
            for name, parameter in state.net.named_parameters():
                parameter.requires_grad_(name.startswith("encoder."))
            group = state.optimizer.param_groups[0]
            group["params"] = [p for p in state.net.parameters() if p.requires_grad]

    class Blind(WeightEvolution):
        """Without the check of each epoch, the one at the end is left."""

        def on_epoch_end(self, state: FitState) -> None:
            try:
                super().on_epoch_end(state)
            except ProofError:
                self.reasons.clear()

    X, y = windows()
    schedule = make_schedule("none")
    with pytest.raises(ProofError, match="no tensor of the head moved in any epoch"):
        estimator().fit(X, y, callbacks=[HeadStill(schedule), Blind(schedule)])
    with pytest.raises(ProofError, match=r"tensor stayed frozen: attention\.in_proj_weight"):
        estimator().fit(X, y, callbacks=[HeadStill(schedule), WeightEvolution(schedule)])


def test_training_that_ends_before_the_last_phase_is_not_proven() -> None:
    long, short = make_schedule("two_phase", unfreeze_after=9), make_schedule("frozen")
    _, evolution = fit(long, FreezeCallback(short))
    proof = evolution.proof()
    assert not proof["proven"]
    assert proof["reasons"] == ["training ended in epoch 4, before the last phase began"]


def test_an_evolution_without_epochs_proves_nothing() -> None:
    assert WeightEvolution(make_schedule("none")).proof()["proven"] is False


# --- two checkpoints side by side


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


def test_training_is_seen_in_a_real_run() -> None:
    schedule = make_schedule("frozen")
    model, _ = fit(schedule, FreezeCallback(schedule))
    again, _ = fit(make_schedule("none"), FreezeCallback(make_schedule("none")))
    fresh = checkpoint(model.net_.state_dict())  # frozen from its initialisation
    found = compare_checkpoints(fresh, checkpoint(again.net_.state_dict()))
    assert "A: all 16 common encoder tensors look as initialised" in found.findings()
    assert found.findings()[0].startswith("16 of 16 encoder tensors differ")


# --- the heat map


def test_the_heat_map_shows_frozen_cells_and_how_far_the_others_moved() -> None:
    schedule = make_schedule("two_phase", **TWO_PHASE)
    model, evolution = fit(schedule, FreezeCallback(schedule))
    figure = evolution_figure(evolution.to_table(), "run")
    axes = figure.axes[0]
    cells = axes.images[0].get_array()
    tensors = [label.get_text() for label in axes.get_yticklabels()]
    assert len(tensors) == len(list(model.net_.parameters()))
    assert all(name.startswith("encoder.") for name in tensors[:16])
    assert not any(name.startswith("encoder.") for name in tensors[16:])
    assert cells.mask[:16, :2].all()  # frozen
    assert not cells.mask[:16, 2:].any()
    assert not cells.mask[16:].any()
    row = next(r for r in evolution.rows if r["tensor"] == tensors[0] and r["epoch"] == 3)
    assert float(cells[0, 3]) == pytest.approx(row["change_since_load"])
    assert axes.get_title(loc="left") == "run"
    assert figure_to_png(figure) == figure_to_png(figure)


def test_the_heat_map_marks_what_should_have_moved() -> None:
    schedule = make_schedule("none")
    _, evolution = fit(schedule, FreezeCallback(schedule), n_epochs=2)
    table = evolution.to_table().to_pylist()
    table[5]["moved_in_epoch"] = False
    figure = evolution_figure(pa.Table.from_pylist(table), "run")
    assert len(figure.axes[0].lines) == 1 + 1  # the mark, and the line below the encoder
    with pytest.raises(BadInput, match="holds no epoch"):
        evolution_figure(evolution.to_table().slice(0, 0), "run")
