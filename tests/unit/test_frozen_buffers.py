"""Frozen means every tensor: statistics, counters, tied and parametrised weights stand still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conv_kit import STATISTICS, ConvModel, conv_net, encoder_state, fit_conv, moved, own_schedule
from conv_kit import write_conv_encoder as write
from finetune_kit import config, windows
from torch import nn
from torch.nn.utils import parametrizations

from moola.errors import ConfigError, ProofError
from moola.evaluation.pages.plots import figure_to_png
from moola.models.catalogue import REGISTRY, ModelEntry
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.resume import StateFile
from moola.models.weights.freeze import FreezeCallback, make_schedule
from moola.models.weights.frozen import plain_name
from moola.models.weights.net_tensors import net_tensors, same_bits
from moola.training.finetune import FinetuneResult, finetune
from moola.training.heatmap import evolution_figure

pytestmark = pytest.mark.medium  # trains networks

NORM = "encoder.blocks.0.norm"
FROZEN = make_schedule("frozen")


@pytest.fixture
def conv(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net as a model of the registry, as ARCHITECTURE.md says that one is added."""
    entry = ModelEntry(
        name="conv", path="conv_kit.ConvModel", role="TRANSFER", inputs="OHLC", purpose="test"
    )
    monkeypatch.setitem(REGISTRY, "conv", entry)
    monkeypatch.setattr("moola.config.training.ENCODER_MODELS", ("conv",))


def tune(folder: Path, freeze: str, **changes: Any) -> tuple[FinetuneResult, dict[str, Any]]:
    tensors = encoder_state(hidden=32, num_layers=1)
    made = config(write(folder / "e", tensors), model="conv", freeze=freeze, **changes)
    X, y = windows()
    return finetune(made, X, y, device="cpu"), tensors


@pytest.mark.parametrize(
    ("freeze", "phases", "still"),
    [
        ("none", (), [False] * 4),
        ("frozen", (), [True] * 4),
        ("two_phase", (), [True, True, False, False]),
        ("gradual", (), [True, True, False, False]),
        ("phases", (3, 1), [True, True, True, False]),
    ],
)
def test_statistics_follow_every_schedule(
    conv: None, tmp_path: Path, freeze: str, phases: tuple[int, ...], still: list[bool]
) -> None:
    result, tensors = tune(tmp_path, freeze, phases=phases)
    assert result.proof is not None
    assert result.proof["proven"], result.proof["reasons"]
    assert result.load_report is not None
    assert result.evolution is not None
    assert result.load_report["num_matched"] == 7
    names = {f"{NORM}.{kind}" for kind in STATISTICS}
    assert set(result.load_report["buffers"]["matched"]) == names
    rows = result.evolution.to_pylist()
    for name in names:
        mine = [r for r in rows if r["tensor"] == name]
        assert [r["frozen"] for r in mine] == still
        assert [not r["moved_in_epoch"] for r in mine] == still
        assert {(r["kind"], r["part"], r["requires_grad"]) for r in mine} == {
            ("buffer", "encoder", False)
        }
    (first, *_) = result.proof["phases"]
    # two of the convolution, two and three of the norm, and the scale that no checkpoint holds
    assert (first["encoder_tensors_frozen"], first["encoder_buffers"]) == (8 if still[0] else 0, 4)
    same = all(torch.equal(result.model.net_.state_dict()[n], t) for n, t in tensors.items())
    assert same == all(still)
    head = [r for r in rows if r["tensor"] == "classifier.0.running_mean"]
    assert all(r["moved_in_epoch"] and not r["frozen"] for r in head)


def test_dropout_of_a_frozen_encoder_is_off_and_on_again_when_it_trains() -> None:
    class Modes(Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[bool, ...]] = []

        def on_gradients(self, state: FitState) -> None:
            encoder = state.net.encoder
            self.seen.append(tuple(m.training for m in encoder.modules()))

    modes = Modes()
    _, evolution = fit_conv(make_schedule("two_phase", unfreeze_after=1), modes, n_epochs=2)
    assert [set(seen) for seen in modes.seen] == [{False}] * 3 + [{True}] * 3
    assert moved(evolution, f"{NORM}.running_var") == [False, True]


def test_an_evaluation_in_between_does_not_wake_a_frozen_module() -> None:
    class Evaluates(Callback):
        """As validation inside an epoch does."""

        def on_gradients(self, state: FitState) -> None:
            state.net.eval()
            state.net.train()

    _, evolution = fit_conv(FROZEN, Evaluates())
    assert evolution.proof()["proven"]
    assert not any(moved(evolution, f"{NORM}.running_mean"))


@pytest.mark.parametrize(
    ("patterns", "still"),
    [
        (("encoder.*",), {"weight", "bias", *STATISTICS}),
        ((f"{NORM}.weight",), {"weight", *STATISTICS}),
        ((f"{NORM}.running_*",), set(STATISTICS)),
        ((f"{NORM}.num_batches_tracked",), set(STATISTICS)),
        (("encoder.blocks.0.conv.weight",), set()),
        (("encoder.*weight", "encoder.*bias"), {"weight", "bias", *STATISTICS}),
    ],
)
def test_a_partly_frozen_norm_keeps_its_statistics(
    patterns: tuple[str, ...], still: set[str]
) -> None:
    _, evolution = fit_conv(own_schedule(*patterns))
    kept = {
        kind
        for kind in ("weight", "bias", *STATISTICS)
        if not any(moved(evolution, f"{NORM}.{kind}"))
    }
    assert kept == still
    assert evolution.proof()["proven"]


def test_a_norm_without_weights_is_frozen_with_the_encoder_around_it() -> None:
    def bare(net: nn.Module) -> None:
        net.encoder.blocks[0].norm = nn.BatchNorm1d(8, affine=False)

    _, evolution = fit_conv(own_schedule("encoder.*weight", "encoder.*bias"), build=bare)
    assert not any(moved(evolution, f"{NORM}.running_mean"))


class Counts(nn.Module):
    """Writes into a buffer in whatever mode it runs."""

    def __init__(self, start: torch.Tensor, persistent: bool = True):
        super().__init__()
        self.register_buffer("seen", start, persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.seen.copy_(~self.seen if self.seen.dtype == torch.bool else self.seen + 1)
        return x


def count(start: torch.Tensor, **options: Any) -> Any:
    def change(net: nn.Module) -> None:
        net.encoder.blocks.append(Counts(start.clone(), **options))

    return change


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (torch.zeros(2), {}),
        (torch.zeros(2), {"persistent": False}),
        (torch.zeros((), dtype=torch.int64), {}),
        (torch.zeros(3, dtype=torch.uint8), {}),
        (torch.tensor([True, False]), {}),
        (torch.zeros(2, dtype=torch.complex64), {}),
        (torch.zeros(2, dtype=torch.float16), {}),
        (torch.zeros(2, dtype=torch.bfloat16), {}),
    ],
    ids=lambda v: str(getattr(v, "dtype", "")),
)
def test_a_frozen_buffer_of_any_type_that_moves_ends_the_run(
    start: torch.Tensor, options: dict[str, Any]
) -> None:
    # three batches an epoch, so that a flag does not end where it began
    with pytest.raises(ProofError, match=r"frozen tensor moved: encoder\.blocks\.2\.seen in epoch"):
        fit_conv(FROZEN, build=count(start, **options))


def test_a_buffer_of_nan_that_stands_still_is_no_finding() -> None:
    def nan(net: nn.Module) -> None:
        net.encoder.register_buffer("unused", torch.full((2,), float("nan")), persistent=False)

    _, evolution = fit_conv(FROZEN, build=nan)
    assert moved(evolution, "encoder.unused") == [False] * 3
    changes = [r["change_since_load"] for r in evolution.rows if r["tensor"] == "encoder.unused"]
    assert changes == [0.0] * 3


def test_a_change_that_is_no_number_is_none_and_survives_a_state_file(tmp_path: Path) -> None:
    class Spoils(Callback):
        def on_epoch_end(self, state: FitState) -> None:
            state.net.classifier[0].running_mean[0] = float("nan")

    file = StateFile(path=tmp_path / "s", identity="x")
    _, evolution = fit_conv(make_schedule("none"), Spoils(), file=file)
    rows = [r for r in evolution.rows if r["tensor"] == "classifier.0.running_mean"]
    assert [r["change_since_load"] for r in rows] == [None] * 3
    assert evolution.to_table().num_rows == len(evolution.rows)
    assert figure_to_png(evolution_figure(evolution.to_table(), "run"))


class Wakes(FreezeCallback):
    """Forgets the modes: what Moola did before."""

    def on_batch_begin(self, state: FitState) -> None:
        state.net.train()


class Momentum(Callback):
    """Moves a frozen weight behind autograd's back, as an averaging of weights may."""

    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 1:
            state.net.encoder.blocks[1].conv.weight.data.mul_(1.001)


class Half(Callback):
    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 1:
            state.net.encoder.blocks[0].norm.running_var.data = torch.ones(8).half()


class Swaps(Callback):
    """A new module under the old name."""

    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 1:
            state.net.encoder.blocks[0].norm = nn.BatchNorm1d(8).requires_grad_(False).eval()
            state.net.encoder.blocks[0].norm.running_mean += 0.5


class Drops(Callback):
    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 1:
            state.net.encoder.blocks[0].norm.running_mean = None


class Renames(Callback):
    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 0:
            scale = state.net.encoder._buffers.pop("scale")
            state.net.encoder.register_buffer("factor", scale, persistent=False)


class Grows(Callback):
    def on_epoch_end(self, state: FitState) -> None:
        if state.epoch == 2:
            state.net.encoder.register_buffer("late", torch.ones(2))


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Momentum, r"frozen tensor moved: encoder\.blocks\.1\.conv\.weight in epoch 2"),
        (
            Half,
            rf"another one: {NORM}\.running_var in epoch 2, dtype torch\.float32 became torch\.f",
        ),
        (Swaps, rf"frozen tensor moved: {NORM}\.running_mean in epoch 2"),
        (Drops, rf"tensor vanished: {NORM}\.running_mean in epoch 2"),
        (Renames, r"tensor appeared: encoder\.factor in epoch 1"),
        (Grows, r"tensor appeared: encoder\.late in epoch 3"),
    ],
)
def test_what_moves_in_a_frozen_encoder_ends_that_epoch(
    callback: type[Callback], message: str
) -> None:
    with pytest.raises(ProofError, match=message) as caught:
        fit_conv(FROZEN, callback())
    assert str(caught.value).startswith("freeze schedule frozen was not carried out")


def test_a_norm_in_training_mode_under_a_frozen_pattern_ends_the_first_epoch() -> None:
    with pytest.raises(ProofError, match=rf"frozen tensor moved: {NORM}\.running_mean in epoch 1"):
        fit_conv(FROZEN, freezer=Wakes)


def test_dropout_in_training_mode_under_a_frozen_pattern_is_found_too() -> None:
    def no_norms(net: nn.Module) -> None:
        for block in net.encoder.blocks:
            block.norm = nn.Identity()

    with pytest.raises(ProofError, match=r"frozen module ran in training mode: encoder in epoch 1"):
        fit_conv(FROZEN, build=no_norms, freezer=Wakes)


def test_what_moves_between_two_epochs_is_found_in_the_next() -> None:
    class Late(Callback):
        """After the proof has looked."""

        def on_epoch_end(self, state: FitState) -> None:
            if state.epoch == 0:
                state.net.encoder.blocks[0].norm.running_mean += 1

    with pytest.raises(ProofError, match=rf"frozen tensor moved: {NORM}\.running_mean in epoch 2"):
        fit_conv(FROZEN, after=(Late(),))


def test_kept_weights_that_are_not_the_frozen_ones_are_found_in_the_end() -> None:
    class Last(Callback):
        def on_epoch_end(self, state: FitState) -> None:
            if state.epoch == 2:
                state.net.encoder.blocks[0].norm.running_mean += 1

    with pytest.raises(ProofError, match=rf"differs from the load in the end: {NORM}\.running_mea"):
        fit_conv(FROZEN, after=(Last(),))


def tie(net: nn.Module) -> None:
    net.classifier[1].weight = net.encoder.blocks[1].conv.bias  # one parameter, two names


def overlap(net: nn.Module) -> None:
    whole = net.encoder.blocks[1].norm.bias.data
    net.classifier[0].bias = nn.Parameter(whole[2:].view(-1))  # another one in the same memory


def buffered(net: nn.Module) -> None:
    net.encoder.register_buffer("copy", net.classifier[1].weight.data)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (tie, ("encoder.blocks.1.conv.bias", "classifier.1.weight")),
        (overlap, ("encoder.blocks.1.norm.bias", "classifier.0.bias")),
        (buffered, ("encoder.copy", "classifier.1.weight")),
    ],
)
def test_a_tensor_with_two_fates_is_refused_before_training(
    build: Any, names: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError, match=f"freezes {names[0]} but not {names[1]}, which lies in"):
        fit_conv(FROZEN, build=build)


def test_tied_weights_with_one_fate_train_and_freeze_under_both_names() -> None:
    def same(net: nn.Module) -> None:
        net.encoder.blocks[1].norm.bias = net.encoder.blocks[0].norm.bias

    _, evolution = fit_conv(own_schedule("encoder.*", until=2), build=same)
    for block in (0, 1):
        assert moved(evolution, f"encoder.blocks.{block}.norm.bias") == [False, False, True]


def spectral(net: nn.Module) -> None:
    parametrizations.spectral_norm(net.encoder.blocks[0].conv)


def weight_normed(net: nn.Module) -> None:
    parametrizations.weight_norm(net.encoder.blocks[0].conv)


def old_spectral(net: nn.Module) -> None:
    nn.utils.spectral_norm(net.encoder.blocks[0].conv)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("build", [spectral, weight_normed, old_spectral])
@pytest.mark.parametrize("pattern", ["encoder.blocks.0.conv.weight", "encoder.blocks.0.*"])
def test_a_parametrised_weight_answers_to_its_own_name(build: Any, pattern: str) -> None:
    _, evolution = fit_conv(own_schedule(pattern), build=build)
    parts = [r["tensor"] for r in evolution.rows if ".blocks.0.conv." in r["tensor"]]
    weights = {n for n in parts if "bias" not in n}
    assert len(weights) >= 2
    assert not any(any(moved(evolution, name)) for name in weights)
    assert evolution.proof()["proven"]
    if "*" not in pattern:
        assert all(moved(evolution, "encoder.blocks.0.conv.bias"))


def test_names_without_their_parametrisation() -> None:
    names = ["lstm.weight_hh_l0_g", "lstm.weight_hh_l0_v", "bias_v", "a.parametrizations.w.0._u"]
    assert [plain_name(n, names) for n in names] == [
        "lstm.weight_hh_l0",
        "lstm.weight_hh_l0",
        "bias_v",
        "a.w",
    ]


def test_statistics_that_should_move_and_do_not_are_found() -> None:
    class StaysStill(FreezeCallback):
        """Unfreezes the weights, and leaves a norm in evaluation mode."""

        def on_batch_begin(self, state: FitState) -> None:
            super().on_batch_begin(state)
            state.net.encoder.blocks[1].norm.eval()

    schedule = own_schedule("encoder.*", until=1)
    with pytest.raises(
        ProofError,
        match=r"statistics did not move: encoder\.blocks\.1\.norm\.running_mean in epoch 2",
    ):
        fit_conv(schedule, freezer=StaysStill)


def test_a_buffer_that_trains_but_is_not_saved_is_found() -> None:
    def unsaved(net: nn.Module) -> None:
        net.classifier.insert(0, Counts(torch.zeros(1), persistent=False))

    with pytest.raises(ProofError, match=r"no checkpoint keeps .*: classifier\.0\.seen in epoch 1"):
        fit_conv(make_schedule("none"), build=unsaved)


def test_a_pattern_that_names_neither_weight_nor_buffer_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no tensor"):
        fit_conv(own_schedule("encoder.blocks.*.norm.running_median"))


def test_lazy_and_sparse_tensors_are_refused() -> None:
    net = conv_net()
    net.encoder.blocks[0].norm = nn.LazyBatchNorm1d()
    with pytest.raises(ConfigError, match=rf"tensor {NORM}\.weight has no values yet"):
        net_tensors(net)
    net = conv_net()
    net.encoder.register_buffer("links", torch.eye(2).to_sparse())
    with pytest.raises(ConfigError, match=r"tensor encoder\.links is sparse"):
        net_tensors(net)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([1.0]), torch.tensor([[1.0]]), False),
        (torch.zeros(0), torch.zeros(0), True),
        (torch.tensor(True), torch.tensor(True), True),
        (torch.tensor([1 + 1j]).conj(), torch.tensor([1 - 1j]), True),
        (torch.tensor([2**60]), torch.tensor([2**60 + 1]), False),
        (torch.ones(2, 3).t(), torch.ones(3, 2), True),
    ],
)
def test_bits_are_compared(first: torch.Tensor, second: torch.Tensor, same: bool) -> None:
    assert same_bits(first, second) == same


def test_the_cache_of_a_frozen_encoder_gives_what_the_plain_way_gives() -> None:
    plain, _ = fit_conv(FROZEN)
    cached, _ = fit_conv(FROZEN, cache_frozen=True)
    X, _ = windows()
    assert plain.predict_proba(X) == pytest.approx(cached.predict_proba(X), abs=1e-6)


def test_early_stopping_keeps_the_statistics_of_its_epoch() -> None:
    class Remember(Callback):
        def __init__(self) -> None:
            self.means: list[torch.Tensor] = []

        def on_epoch_end(self, state: FitState) -> None:
            self.means.append(state.net.encoder.blocks[0].norm.running_mean.clone())
            state.history[-1]["val_loss"] = [3.0, 1.0, 2.0][state.epoch]

    remember = Remember()
    model = ConvModel(n_epochs=3, batch_size=8, learning_rate=0.01)
    model.fit(*windows(), validation=windows(seed=9), callbacks=[remember])
    assert model.kept_epoch_ == 1
    assert torch.equal(model.net_.encoder.blocks[0].norm.running_mean, remember.means[1])
    assert not torch.equal(remember.means[1], remember.means[2])
