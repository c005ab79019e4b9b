"""Strict loading: every form x prefix x fault gives the report, or the abort, that is expected."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_kit import OneWay, bits, encoder_tensors, net, prefixed, write_form
from torch import nn

from moola.errors import CheckpointError, CheckpointNotFound
from moola.models.pretrained_utils import (
    is_encoder_tensor,
    load_pretrained_strict,
)
from moola.models.weights.load_report import format_load_report

FORMS = ("model_state_dict", "state_dict", "encoder_state_dict", "direct", "safetensors", "folder")
PREFIXES = ("", "encoder.", "encoder_lstm.", "lstm.", "module.encoder.", "_orig_mod.module.lstm.")


@pytest.mark.parametrize(("form", "prefix"), list(itertools.product(FORMS, PREFIXES)))
def test_every_form_and_prefix_loads_whole(tmp_path: Path, form: str, prefix: str) -> None:
    tensors = encoder_tensors()
    extra = {"decoder.weight": torch.ones(3)} if form != "encoder_state_dict" else {}
    path = write_form(tmp_path / "c", form, prefixed(tensors, prefix) | extra)
    model = net()
    head = {k: v for k, v in bits(model).items() if not is_encoder_tensor(k)}
    report = load_pretrained_strict(model, path)
    for name, tensor in tensors.items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
    assert {k: v for k, v in bits(model).items() if not is_encoder_tensor(k)} == head
    assert report["num_matched"] == 16
    assert (report["num_missing"], report["num_mismatched"], report["num_unexpected"]) == (0, 0, 0)
    assert report["ignored"] == tuple(extra)
    assert report["checkpoint_form"] == form
    assert report["match_ratio_encoder"] == report["match_ratio_checkpoint"] == 1.0
    assert report["match_ratio_model"] == pytest.approx(16 / 30)
    assert report["frozen_tensors"] == 16
    # 2 directions of 4 * 4 rows: layer 0 takes 4 inputs, layer 1 takes 8; 4 states; two biases
    assert report["frozen_parameters"] == 2 * (16 * (4 + 4 + 2) + 16 * (8 + 4 + 2))
    assert not any(p.requires_grad for p in model.encoder.parameters())


def _nan(tensors: dict[str, Any]) -> dict[str, Any]:
    tensors["bias_hh_l1"][3] = float("nan")
    return tensors


def _infinite(tensors: dict[str, Any]) -> dict[str, Any]:
    tensors["weight_ih_l0"][0, 0] = float("inf")
    return tensors


def _shape(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"weight_hh_l0": torch.zeros(16, 5)}


def _hidden(tensors: dict[str, Any]) -> dict[str, Any]:
    return encoder_tensors(hidden=8)


def _few(tensors: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in tensors.items() if "_l0" in k and "reverse" not in k}


def _twice(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"module.weight_ih_l0": tensors["weight_ih_l0"] + 1}


def _whole_numbers(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"bias_ih_l0": torch.ones(16, dtype=torch.int64)}


def _complex(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"bias_ih_l0": torch.ones(16, dtype=torch.complex64)}


def _too_large(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"bias_ih_l0": torch.full((16,), 1e300, dtype=torch.float64)}


def _foreign(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"conv.weight": torch.ones(3, 3)}


FAULTS = {
    _nan: "NaN or infinity",
    _infinite: "tensor weight_ih_l0 holds NaN or infinity",
    _shape: r"1 tensors .* another shape, first encoder.weight_hh_l0: checkpoint \[16, 5\]; "
    r"expected \[16, 4\]",
    _hidden: "16 tensors .* another shape",
    _few: "4 of 16 encoder tensors of the model match .* 25.0%; expected at least 80%",
    _twice: "holds weight_ih_l0 twice, as module.weight_ih_l0 and as weight_ih_l0",
    _whole_numbers: "bias_ih_l0 of .* is of type torch.int64; expected floating point",
    _complex: "bias_ih_l0 of .* is of type torch.complex64; expected floating point",
    _too_large: "does not fit into torch.float32: the checkpoint's torch.float64 holds 1e[+]300",
    _foreign: "0 of 16 encoder tensors",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__[1:])
def test_every_fault_aborts_and_leaves_the_model_as_it_was(
    tmp_path: Path, form: str, fault: Any
) -> None:
    path = write_form(tmp_path / "c", form, fault(encoder_tensors()))
    model = net()
    before = bits(model)
    with pytest.raises(CheckpointError, match=FAULTS[fault]) as caught:
        load_pretrained_strict(model, path)
    assert "\n" not in str(caught.value)
    assert bits(model) == before


def test_a_copy_that_fails_half_way_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_form(tmp_path / "c", "direct", encoder_tensors())
    model = net()
    before = bits(model)
    copied: list[int] = []
    real = torch.Tensor.copy_

    def copy(self: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        copied.append(1)
        if len(copied) == 9:
            raise MemoryError("the ninth tensor")
        return real(self, source)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    with pytest.raises(MemoryError):
        load_pretrained_strict(model, path)
    assert len(copied) == 9 + 16
    assert bits(model) == before


def test_a_copy_that_does_not_compare_equal_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_form(tmp_path / "c", "direct", encoder_tensors())
    model = net()
    before = bits(model)
    real, calls = torch.Tensor.copy_, []

    def copy(self: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(self, source * 2 if len(calls) == 5 else source)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    with pytest.raises(CheckpointError, match="differs from the checkpoint after the copy"):
        load_pretrained_strict(model, path)
    assert bits(model) == before


def test_bidirectional_into_unidirectional_reports_the_reverse_direction_as_ignored(
    tmp_path: Path,
) -> None:
    tensors = encoder_tensors(num_layers=1)
    path = write_form(tmp_path / "c", "encoder_state_dict", tensors)
    model = OneWay()
    report = load_pretrained_strict(model, path)
    assert report["num_matched"] == 4
    assert report["match_ratio_encoder"] == report["match_ratio_checkpoint"] == 1.0
    assert sorted(report["ignored"]) == [
        f"{kind}_{side}_l0_reverse" for kind in ("bias", "weight") for side in ("hh", "ih")
    ]
    assert report["unexpected"] == ()
    assert torch.equal(model.lstm.weight_hh_l0, tensors["weight_hh_l0"])


def test_unidirectional_into_bidirectional_is_half_an_encoder(tmp_path: Path) -> None:
    tensors = {k: v for k, v in encoder_tensors().items() if "reverse" not in k}
    path = write_form(tmp_path / "c", "direct", tensors)
    with pytest.raises(CheckpointError, match=r"8 of 16 encoder tensors .* 50.0%"):
        load_pretrained_strict(net(), path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_float_type_is_cast_and_reported(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {k: v.to(dtype) for k, v in encoder_tensors().items()}
    path = write_form(tmp_path / "c", "safetensors", tensors)
    model = net()
    report = load_pretrained_strict(model, path)
    assert report["num_matched"] == len(report["cast"]) == 16
    assert report["cast"][0]["checkpoint"] == str(dtype)
    for name, tensor in tensors.items():
        assert torch.equal(model.encoder.state_dict()[name], tensor.float())


def test_layer_mismatch_is_44_4_percent_of_the_whole_model(tmp_path: Path) -> None:
    """The known case: one layer, no feature branch, 18 tensors, of which 8 are layer 0's."""
    path = write_form(tmp_path / "c", "encoder_state_dict", encoder_tensors(num_layers=2))
    model = net(num_layers=1, feature_mlp_hidden=())
    assert len(model.state_dict()) == 18
    before = bits(model)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained_strict(model, path, scope="model")
    assert "8 of 18 tensors of the model" in str(caught.value)
    assert "44.4%; expected at least 80%" in str(caught.value)
    assert "1 layer takes 8 of 16 encoder tensors: use num_layers=2" in str(caught.value)
    assert bits(model) == before


def test_an_encoder_of_which_half_finds_no_place_is_refused_too(tmp_path: Path) -> None:
    path = write_form(tmp_path / "c", "encoder_state_dict", encoder_tensors(num_layers=2))
    model = net(num_layers=1)
    with pytest.raises(
        CheckpointError, match=r"takes 8 of the 16 encoder tensors .* 50.0%.*use num_layers=2"
    ):
        load_pretrained_strict(model, path)
    report = load_pretrained_strict(model, path, min_match_ratio=0.5)
    assert (report["num_matched"], report["num_unexpected"]) == (8, 8)
    assert (report["match_ratio_encoder"], report["match_ratio_checkpoint"]) == (1.0, 0.5)


def test_a_layer_that_was_not_loaded_is_not_frozen(tmp_path: Path) -> None:
    path = write_form(tmp_path / "c", "encoder_state_dict", encoder_tensors(num_layers=1))
    model = net(num_layers=2)
    with pytest.raises(CheckpointError, match=r"2 layers take 8 of 8 .*use num_layers=1"):
        load_pretrained_strict(model, path)
    report = load_pretrained_strict(model, path, min_match_ratio=0.5)
    assert report["frozen_tensors"] == 8
    free = {n for n, p in model.encoder.named_parameters() if p.requires_grad}
    assert free == {n for n, _ in model.encoder.named_parameters() if "_l1" in n}


def test_mismatched_tensors_may_be_left_out_where_it_is_said(tmp_path: Path) -> None:
    path = write_form(tmp_path / "c", "direct", _shape(encoder_tensors()))
    model = net()
    before = model.encoder.weight_hh_l0.clone()
    report = load_pretrained_strict(model, path, allow_shape_mismatch=True)
    assert report["num_matched"] == 15
    assert report["mismatched"] == (
        {"name": "encoder.weight_hh_l0", "checkpoint": [16, 5], "model": [16, 4]},
    )
    assert torch.equal(model.encoder.weight_hh_l0, before)
    assert model.encoder.weight_hh_l0.requires_grad


def test_missing_tensors_pass_above_the_ratio_and_ratios_by_parameters_differ(
    tmp_path: Path,
) -> None:
    tensors = {k: v for k, v in encoder_tensors().items() if k != "weight_ih_l1"}
    report = load_pretrained_strict(net(), write_form(tmp_path / "c", "direct", tensors))
    assert report["missing"] == ("encoder.weight_ih_l1",)
    assert report["match_ratio_encoder"] == 15 / 16
    assert report["match_ratio_encoder_parameters"] == (768 - 128) / 768


def test_the_whole_model_loads_from_its_own_state_dict(tmp_path: Path) -> None:
    source, model = net(seed=1), net(seed=2)
    path = write_form(tmp_path / "c", "model_state_dict", source.state_dict())
    report = load_pretrained_strict(model, path, scope="model", freeze_encoder=False)
    assert report["match_ratio_model"] == report["match_ratio_model_parameters"] == 1.0
    assert report["frozen_tensors"] == 0
    assert {k: v[0] for k, v in bits(model).items()} == {k: v[0] for k, v in bits(source).items()}
    assert all(p.requires_grad for p in model.parameters())


def test_a_whole_model_without_an_encoder_loads_too(tmp_path: Path) -> None:
    source, model = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
    path = write_form(tmp_path / "c", "direct", source.state_dict())
    report = load_pretrained_strict(model, path, scope="model")
    assert report["match_ratio_model"] == 1.0
    assert (report["encoder_taken"], report["encoder_given"]) == (0, 0)
    assert bits(model) == bits(source)


def test_an_encoder_that_is_no_lstm_is_counted_too(tmp_path: Path) -> None:
    model = nn.Module()
    model.encoder, model.lstm_head = nn.Sequential(nn.Linear(2, 2)), nn.LSTM(2, 2)
    tensors = {"encoder.1.weight": torch.ones(2, 2), "encoder.1.bias": torch.ones(2)}
    path = write_form(tmp_path / "c", "direct", {**model.state_dict(), **tensors})
    with pytest.raises(CheckpointError, match=r"takes 2 of the 4 encoder tensors .* 50.0%"):
        load_pretrained_strict(model, path, scope="model")


def test_an_absent_file_lists_what_lies_beside_it(tmp_path: Path) -> None:
    write_form(tmp_path / "b_encoder", "direct", encoder_tensors())
    (tmp_path / "a_encoder").mkdir()
    with pytest.raises(CheckpointNotFound, match=r"holds: a_encoder, b_encoder.pt; make"):
        load_pretrained_strict(net(), tmp_path / "encoder.pt")
    with pytest.raises(FileNotFoundError, match="holds: nothing"):
        load_pretrained_strict(net(), tmp_path / "nowhere" / "encoder.pt")


def test_a_model_without_an_encoder_takes_nothing(tmp_path: Path) -> None:
    path = write_form(tmp_path / "c", "direct", encoder_tensors())
    with pytest.raises(CheckpointError, match="0 of 0 encoder tensors"):
        load_pretrained_strict(nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "encode"}, "Did you mean 'encoder'"),
        ({"min_match_ratio": float("nan")}, "min_match_ratio is nan"),
        ({"min_match_ratio": 1.5}, "min_match_ratio is 1.5; expected a number in"),
    ],
)
def test_options_are_checked_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pretrained_strict(net(), "/nowhere", **options)


def test_the_printed_report_says_what_was_matched_and_frozen(tmp_path: Path) -> None:
    path = write_form(tmp_path / "c", "direct", encoder_tensors())
    text = format_load_report(load_pretrained_strict(net(), path)).splitlines()
    assert text[1] == "PRETRAINED LOAD REPORT"
    assert text[5] == "Matched: 16 tensors (100.0%)"
    assert text[6] == "Missing: 0 tensors (will be trained from scratch)"
    assert text[7] == "Shape mismatches: 0"
    assert text[-2] == "Froze 16 encoder tensors (768 parameters)"
