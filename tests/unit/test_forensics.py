"""Proof of a schedule: runs that break their word, each by its own fault, are found out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finetune_kit import TWO_PHASE, estimator, fit, windows

from moola.errors import ProofError
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.weights.freeze import FreezeCallback, make_schedule
from moola.training.forensics import WeightEvolution

pytestmark = pytest.mark.medium  # trains networks


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
        (StepsFrozen, r"the optimiser holds a frozen tensor: encoder\.weight_ih_l0 in epoch 1"),
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
