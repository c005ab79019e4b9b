"""Freeze schedules: the epochs at which tensors stand still, by hand; and what must be refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from finetune_kit import OneWay, estimator, net, windows
from torch import nn

from moola.errors import ConfigError
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.weights.freeze import FreezeCallback, FreezeSchedule, Phase, make_schedule

pytestmark = pytest.mark.medium  # trains networks

LAYER_0 = tuple(f"encoder.*_l0{side}" for side in ("", "_reverse"))
LAYER_1 = tuple(f"encoder.*_l1{side}" for side in ("", "_reverse"))


def frozen_count(schedule: FreezeSchedule, epoch: int, model: nn.Module) -> int:
    return len(schedule.frozen_at(epoch, [n for n, _ in model.named_parameters()]))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("none", {}, [(0, (), 1.0)]),
        ("frozen", {}, [(0, ("encoder.*",), 1.0)]),
        ("frozen", {"unfreeze_after": 0}, [(0, ("encoder.*",), 1.0)]),
        ("two_phase", {}, [(0, ("encoder.*",), 1.0), (10, (), 0.5)]),
        ("two_phase", {"unfreeze_after": 0}, [(0, (), 1.0)]),
        ("two_phase", {"lr_factor": 0.1}, [(0, ("encoder.*",), 1.0), (10, (), 0.1)]),
        (
            "gradual",
            {"unfreeze_after": 5, "num_layers": 2, "lr_factor": 0.3},
            [(0, ("encoder.*",), 1.0), (5, LAYER_0, 0.3), (10, (), 0.3)],
        ),
        ("gradual", {"unfreeze_after": 0, "num_layers": 2}, [(0, (), 1.0)]),
        (
            "gradual",
            {"unfreeze_after": 2, "num_layers": 2, "bidirectional": False},
            [(0, ("encoder.*",), 1.0), (2, ("encoder.*_l0",), 0.5), (4, (), 0.5)],
        ),
        (
            "phases",
            {"phases": (30, 10, 5), "num_layers": 2},
            [(0, ("encoder.*",), 1.0), (30, LAYER_0, 0.5), (40, (), 0.5)],
        ),
        (
            "phases",
            {"phases": (30, 10, 5), "num_layers": 3},
            [(0, ("encoder.*",), 1.0), (30, LAYER_0, 0.5), (40, (), 0.5)],
        ),
        (
            "phases",
            {"phases": (30, 10, 5), "num_layers": 4},
            [(0, ("encoder.*",), 1.0), (30, LAYER_0 + LAYER_1, 0.5), (40, (), 0.5)],
        ),
        ("phases", {"phases": (3, 4)}, [(0, ("encoder.*",), 1.0), (3, (), 0.5)]),
    ],
)
def test_the_schedules_are_these(
    name: str, options: dict[str, Any], expected: list[tuple[int, tuple[str, ...], float]]
) -> None:
    found = make_schedule(name, **options)
    assert [(p.first_epoch, p.frozen, p.lr_factor) for p in found.phases] == expected
    assert found.to_dict()["phases"][0]["first_epoch"] == 0


def test_gradual_frees_the_top_layer_first() -> None:
    schedule, model = make_schedule("gradual", unfreeze_after=2, num_layers=2), net()
    assert [frozen_count(schedule, e, model) for e in range(6)] == [16, 16, 8, 8, 0, 0]
    assert all("_l0" in t for t in schedule.frozen_at(2, [n for n, _ in model.named_parameters()]))


def test_tensors_that_start_at_random_are_never_frozen() -> None:
    names = ["encoder.weight_ih_l0", "encoder.weight_ih_l1", "norm.weight"]
    schedule = make_schedule("frozen")
    never = frozenset({"encoder.weight_ih_l1"})
    assert schedule.frozen_at(0, names, never) == {"encoder.weight_ih_l0"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("two-phase", {}, "Did you mean 'two_phase'"),
        ("phases", {"phases": (30,)}, r"phases \[30\] unfreezes in 0 steps; expected 1 to 1"),
        ("phases", {"phases": ()}, "unfreezes in 0 steps"),
        ("phases", {"phases": (30, 10, 5)}, "unfreezes in 2 steps; expected 1 to 1"),
        ("phases", {"phases": (30, 0)}, "phases is 0; expected a whole number of at least 1"),
    ],
)
def test_schedules_that_cannot_be_made(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_schedule(name, **options)


def begin(schedule: FreezeSchedule, model: nn.Module, num_epochs: int = 20) -> FitState:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    state = FitState(net=model, optimizer=optimizer, num_epochs=num_epochs)
    FreezeCallback(schedule).on_fit_begin(state)
    return state


@pytest.mark.parametrize("pattern", ["encoder_lstm.*", "encoder.*_l2", "Encoder.*", ""])
def test_a_pattern_that_names_no_tensor_is_refused(pattern: str) -> None:
    phases = (Phase(first_epoch=0, frozen=("encoder.*", pattern)), Phase(first_epoch=1, frozen=()))
    with pytest.raises(
        ConfigError, match="names no tensor of the model; expected a pattern of att"
    ):
        begin(FreezeSchedule(name="own", phases=phases), net())


def test_a_model_whose_encoder_has_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'encoder\.\*' names no tensor .* of classifier, lstm"):
        begin(make_schedule("frozen"), OneWay())


def test_a_phase_that_freezes_everything_is_refused() -> None:
    schedule = FreezeSchedule(name="own", phases=(Phase(first_epoch=0, frozen=("*",)),))
    with pytest.raises(ConfigError, match="freezes all 30 tensors; expected at least one"):
        begin(schedule, net())


def test_an_unfreezing_that_training_never_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unfreezes after epoch 10, but .* ends with epoch 10"):
        begin(make_schedule("two_phase"), net(), num_epochs=10)
    assert begin(make_schedule("two_phase"), net(), num_epochs=11).first_epoch_to_keep == 10


def test_frozen_tensors_leave_the_optimiser_and_are_not_decayed() -> None:
    model = net()
    schedule = make_schedule("two_phase", unfreeze_after=1, lr_factor=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    state = FitState(net=model, optimizer=optimizer, num_epochs=2)
    callback = FreezeCallback(schedule)
    callback.on_fit_begin(state)
    callback.on_epoch_begin(state)
    model.encoder.weight_ih_l0.grad = None
    before = model.encoder.weight_ih_l0.detach().clone()
    assert (len(optimizer.param_groups[0]["params"]), optimizer.param_groups[0]["lr"]) == (14, 0.1)
    assert not model.encoder.training
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # even with a gradient it must stand still
    optimizer.step()
    assert torch.equal(model.encoder.weight_ih_l0, before)
    state.epoch = 1
    model.train()
    callback.on_epoch_begin(state)
    assert len(optimizer.param_groups[0]["params"]) == 30
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)
    assert model.encoder.training
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(model.encoder.weight_ih_l0, before)


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5])
def test_the_learning_rate_changes_at_the_unfreezing(factor: float) -> None:
    X, y = windows()
    schedule = make_schedule("two_phase", unfreeze_after=2, lr_factor=factor)
    model = estimator(n_epochs=4).fit(X, y, callbacks=[FreezeCallback(schedule)])
    rates = [row["learning_rate"] for row in model.history_]
    assert rates == pytest.approx([0.01, 0.01, 0.01 * factor, 0.01 * factor])


def test_early_stopping_keeps_no_epoch_from_before_the_last_phase() -> None:
    class BestFirst(Callback):
        """The frozen epochs look best."""

        def on_epoch_end(self, state: FitState) -> None:
            state.history[-1]["val_loss"] = 0.1 * (state.epoch + 1)

    X, y = windows()
    callbacks = [FreezeCallback(make_schedule("two_phase", unfreeze_after=3)), BestFirst()]
    model = estimator(n_epochs=9, early_stopping_patience=2)
    model.fit(X, y, validation=windows(seed=9), callbacks=callbacks)
    assert model.kept_epoch_ == 3
    assert len(model.history_) == 6  # two epochs without a better one after the kept one
