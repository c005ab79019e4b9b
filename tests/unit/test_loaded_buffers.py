"""Buffers in strict loading, in resumed runs, in comparisons and in the heat map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conv_kit import ConvModel, conv_net, encoder_state, fit_conv, own_schedule
from finetune_kit import same_weights, windows, write_form
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from moola.errors import CheckpointError, ProofError
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.resume import StateFile
from moola.models.pretrained_utils import load_pretrained_strict
from moola.models.weights.checkpoint import Checkpoint, read_checkpoint
from moola.models.weights.freeze import FreezeCallback, make_schedule
from moola.models.weights.load_report import format_load_report
from moola.models.weights.net_tensors import net_state, restore_net
from moola.training.compare_checkpoints import compare_checkpoints, tensor_kind
from moola.training.forensics import WeightEvolution
from moola.training.heatmap import evolution_figure

pytestmark = pytest.mark.medium  # trains networks, draws

NORM = "encoder.blocks.0.norm"
OLD_EPOCH = {"epoch": 0, "tensor": "encoder.w", "requires_grad": False}  # before there was a kind


def without(tensors: dict[str, Any], *ends: str) -> dict[str, Any]:
    return {k: v for k, v in tensors.items() if not k.endswith(ends)}


def state_bytes(net: nn.Module) -> dict[str, bytes]:
    return {k: v.detach().numpy().tobytes() for k, v in net_state(net).items()}


def test_statistics_are_loaded_counted_and_frozen(tmp_path: Path) -> None:
    tensors, net = encoder_state(), conv_net()
    report = load_pretrained_strict(net, write_form(tmp_path / "c", "folder", tensors))
    own = net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors.items())
    assert report["num_matched"] == 14
    assert len(report["buffers"]["matched"]) == 6
    assert report["buffers"]["not_saved"] == ("encoder.scale",)
    assert (report["match_ratio_encoder"], report["match_ratio_without_buffers"]) == (1.0, 1.0)
    assert (report["frozen_tensors"], report["frozen_buffers"]) == (8, 7)
    assert not any(m.training for m in net.encoder.modules())
    assert net.classifier[0].training
    text = format_load_report(report).splitlines()
    assert "Buffers among them: 6 matched, 0 missing, 0 mismatched, 1 not saved" in text
    assert text[-2].endswith("parameters) and 7 buffers")


def test_unfrozen_loading_leaves_modes_alone(tmp_path: Path) -> None:
    net = conv_net()
    path = write_form(tmp_path / "c", "direct", encoder_state())
    report = load_pretrained_strict(net, path, freeze_encoder=False)
    assert report["frozen_buffers"] == 0
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: without(t, "0.norm.running_mean"),
            r"not its buffer \S+0\.norm\.running_mean; e",
        ),
        (lambda t: without(t, "1.norm.num_batches_tracked"), r"not its buffer \S+1\.norm\.num_bat"),
        (lambda t: without(t, "running_var", "running_mean"), "running_mean, nor 3 more buffers"),
        (
            lambda t: without(t, ".weight", "1.norm.bias", "1.conv.bias"),
            r"without buffers, 25.0% of the model's tensors match",
        ),
        (
            lambda t: t | {f"{NORM}.running_mean": torch.zeros(9)},
            r"another shape, first encoder\.blocks\.0\.norm\.running_mean: checkpoint \[9\]",
        ),
        (
            lambda t: t | {f"{NORM}.num_batches_tracked": torch.zeros(())},
            r"is of type torch\.float32; expected torch\.int64, as",
        ),
        (lambda t: t | {f"{NORM}.running_var": torch.full((8,), torch.nan)}, "holds NaN"),
    ],
)
def test_half_an_encoder_is_refused_and_the_model_is_as_it_was(
    tmp_path: Path, change: Any, message: str
) -> None:
    path = write_form(tmp_path / "c", "direct", change(encoder_state()))
    net = conv_net()
    before = state_bytes(net)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained_strict(net, path, min_match_ratio=0.5)
    assert "\n" not in str(caught.value)
    assert state_bytes(net) == before
    assert all(m.training for m in net.modules())


def test_a_module_that_is_missing_as_a_whole_learns_its_statistics(tmp_path: Path) -> None:
    tensors = {k: v for k, v in encoder_state().items() if "1.norm" not in k}
    path = write_form(tmp_path / "c", "direct", tensors)
    net = conv_net()
    report = load_pretrained_strict(net, path, min_match_ratio=0.6)
    assert len(report["buffers"]["missing"]) == 3
    assert net.encoder.blocks[1].norm.training
    assert not net.encoder.blocks[0].norm.training

    class Load(Callback):
        def on_fit_begin(self, state: FitState) -> None:
            found = load_pretrained_strict(state.net, path, min_match_ratio=0.6)
            state.never_frozen = frozenset(found["missing"])

    schedule = make_schedule("frozen")
    evolution = WeightEvolution(schedule)
    model = ConvModel(n_epochs=2, batch_size=8)
    model.fit(*windows(), callbacks=[Load(), FreezeCallback(schedule), evolution])
    still = {r["tensor"] for r in evolution.rows if not r["moved_in_epoch"]}
    assert still == {*tensors, "encoder.scale"}


def test_a_missing_spectral_vector_is_half_a_weight(tmp_path: Path) -> None:
    net = conv_net()
    parametrizations.spectral_norm(net.encoder.blocks[0].conv)
    own = {k: v.clone() for k, v in net.state_dict().items() if k.startswith("encoder.")}
    path = write_form(tmp_path / "c", "direct", without(own, "0._u"))
    with pytest.raises(
        CheckpointError, match=r"brings tensors of encoder\.blocks\.0\.conv but not"
    ):
        load_pretrained_strict(net, path)


def test_a_tensor_that_only_looks_loaded_is_refused(tmp_path: Path) -> None:
    """A state dict that gives out copies takes every value and keeps none."""
    net = conv_net()

    def copies(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        state[f"{prefix}running_mean"] = state[f"{prefix}running_mean"].clone()

    net.encoder.blocks[0].norm._register_state_dict_hook(copies)
    path = write_form(tmp_path / "c", "direct", encoder_state())
    before = state_bytes(net)
    with pytest.raises(CheckpointError, match=rf"{NORM}\.running_mean differs from the checkpoint"):
        load_pretrained_strict(net, path)
    assert state_bytes(net) == before


class Stop(Exception):
    pass


class Stops(Callback):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_begin(self, state: FitState) -> None:
        if state.epoch == self.epoch:
            raise Stop


def fit_resumable(path: Path, *more: Callback, resume: bool = False) -> Any:
    schedule = own_schedule("encoder.*", until=2)
    evolution = WeightEvolution(schedule)
    model = ConvModel(n_epochs=4, batch_size=8, learning_rate=0.01)
    file = StateFile(path=path, identity="x", resume=resume)
    callbacks = [*more, FreezeCallback(schedule), evolution]
    return model.fit(*windows(), callbacks=callbacks, state_file=file), evolution


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_run_has_buffers_and_modes_of_an_uninterrupted_one(
    tmp_path: Path, epoch: int
) -> None:
    whole, proof = fit_resumable(tmp_path / "whole")
    with pytest.raises(Stop):
        fit_resumable(tmp_path / "s", Stops(epoch))
    again, resumed = fit_resumable(tmp_path / "s", resume=True)
    assert again.resumed_at_ == epoch
    assert same_weights(again.net_, whole.net_)
    assert resumed.rows == proof.rows


def test_a_state_whose_frozen_statistics_were_changed_is_not_proven(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(Stop):
        fit_resumable(path, Stops(1))
    with safe_open(path, framework="pt") as handle:
        tensors = {k: handle.get_tensor(k) for k in handle.keys()}  # noqa: SIM118
        header = handle.metadata()
    tensors[f"net/{NORM}.running_mean"] += 0.5
    save_file(tensors, path, metadata=header)
    with pytest.raises(ProofError, match=rf"frozen tensor moved: {NORM}\.running_mean in epoch 2"):
        fit_resumable(path, resume=True)


def test_buffers_outside_the_state_dict_are_kept_and_must_be_there() -> None:
    first, second = conv_net(), conv_net(seed=1)
    first.encoder.scale.fill_(3.0)
    kept = {k: v.clone() for k, v in net_state(first).items()}
    restore_net(second, kept)
    assert state_bytes(second) == state_bytes(first)
    for wrong in (
        {k: v for k, v in kept.items() if "scale" not in k},
        kept | {"more": kept["encoder.scale"]},
    ):
        with pytest.raises(CheckpointError, match="state kept does not fit the net"):
            restore_net(second, wrong)


def test_rows_of_a_state_from_before_buffers_are_taken_up() -> None:
    schedule = make_schedule("frozen")
    evolution = WeightEvolution(schedule)
    evolution.load_state(
        {"schedule": json.loads(json.dumps(schedule.to_dict())), "rows": [OLD_EPOCH]}
    )
    assert evolution.rows == [{**OLD_EPOCH, "kind": "parameter", "frozen": True}]


def test_a_net_with_tied_weights_is_saved_and_loaded(tmp_path: Path) -> None:
    class Tied(ConvModel):
        model_name = "tied"

        def build_net(self, num_classes: int) -> nn.Module:
            net = super().build_net(num_classes)
            net.encoder.blocks[1].norm.bias = net.encoder.blocks[0].norm.bias
            return net

    model = Tied(n_epochs=1, batch_size=8).fit(*windows())
    model.save(tmp_path / "m")
    assert same_weights(Tied.load(tmp_path / "m").net_, model.net_)


def checkpoint(tensors: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(tensors=tensors, config={}, sha256="0" * 64, form="folder")


def test_forensics_tell_moved_statistics_from_moved_weights(tmp_path: Path) -> None:
    tensors = encoder_state()
    other = {k: v.clone() for k, v in tensors.items()}
    other[f"{NORM}.running_mean"] += 1
    other[f"{NORM}.num_batches_tracked"] += 3
    found = compare_checkpoints(checkpoint(tensors), checkpoint(other))
    kinds = {p.name: p.kind for p in found.pairs}
    assert sum(kind == "buffer" for kind in kinds.values()) == 6
    assert found.findings()[0] == (
        "the encoder's weights are equal, but 2 of its buffers moved (blocks.0.norm."
        "num_batches_tracked, blocks.0.norm.running_mean): it was frozen by its weights only and "
        "does not answer as before"
    )
    lacking = compare_checkpoints(checkpoint(tensors), checkpoint(without(tensors, "running_var")))
    assert lacking.findings()[1] == (
        "2 encoder tensors are in A only: blocks.0.norm.running_var, blocks.1.norm.running_var"
    )
    assert json.dumps(found.to_dict())
    path = write_form(tmp_path / "c", "folder", tensors)
    assert compare_checkpoints(read_checkpoint(path), checkpoint(tensors)).findings()[0] == (
        "all 14 common tensors are equal to the bit"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.half().float(), "differ, by"),
        (
            lambda t: t.double(),
            "equal in value, 1 of them of another type, first blocks.0.conv.bias",
        ),
        (lambda t: torch.complex(t, torch.ones(8)), "1 of 14 encoder tensors differ"),
    ],
)
def test_forensics_compare_types_too(change: Any, words: str) -> None:
    name = "encoder.blocks.0.conv.bias"
    tensors = encoder_state()
    other = tensors | {name: change(tensors[name])}
    assert words in compare_checkpoints(checkpoint(tensors), checkpoint(other)).findings()[0]


def test_a_sign_of_zero_and_whole_numbers_beyond_doubles_are_told_apart() -> None:
    for a, b in (([0.0], [-0.0]), ([2**60], [2**60 + 1]), ([True], [False])):
        (pair,) = compare_checkpoints(
            checkpoint({"encoder.x": torch.tensor(a)}), checkpoint({"encoder.x": torch.tensor(b)})
        ).pairs
        assert not pair.equal


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("encoder.norm.running_mean", "buffer"),
        ("num_batches_tracked", "buffer"),
        ("conv.parametrizations.weight.0._u", "buffer"),
        ("conv.weight_u", "buffer"),
        ("conv.weight", "parameter"),
        ("lstm.weight_hh_l0_reverse", "parameter"),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert tensor_kind(name, torch.ones(1)) == kind
    assert tensor_kind(name, torch.ones(1, dtype=torch.int64)) == "buffer"


def test_the_heat_map_shows_buffers_and_marks_none_for_standing_still() -> None:
    _, evolution = fit_conv(own_schedule("encoder.*", until=1), n_epochs=2)
    figure = evolution_figure(evolution.to_table(), "run")
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    mask = axes.images[0].get_array().mask
    assert list(mask[labels.index(f"{NORM}.running_mean")]) == [True, False]
    assert list(mask[labels.index("encoder.scale")]) == [True, False]
    assert len(axes.lines) == 1  # the line below the encoder; the constant is not marked
    old = evolution.to_table().drop_columns(["kind", "frozen"])
    assert len(evolution_figure(old, "run").axes[0].lines) == 1
