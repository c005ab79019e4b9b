"""Strict loading of pretrained encoders: every tensor accounted for, all of them or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moola.config.base import check_choice, check_range
from moola.errors import CheckpointError
from moola.models.checkpoint import Checkpoint, read_checkpoint

ENCODER_PREFIXES = ("encoder_lstm.", "encoder.", "lstm.")
_WRAPPERS = ("module.", "_orig_mod.")
_LSTM_TENSOR = re.compile(r"(weight|bias)_(ih|hh)_l\d+(_reverse)?")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a checkpoint gave a model, tensor by tensor.

    Names are the model's, except `unexpected` and `ignored`, which are the checkpoint's.
    Ratios are matched over the model's own tensors (or parameters), within the encoder and over
    the whole model.
    """

    checkpoint: str
    checkpoint_sha256: str
    checkpoint_form: str
    scope: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[dict[str, Any], ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    match_ratio_encoder: float
    match_ratio_model: float
    match_ratio_encoder_parameters: float
    match_ratio_model_parameters: float
    min_match_ratio: float
    frozen_tensors: int = 0
    frozen_parameters: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, counts beside the lists."""
        lists = ("matched", "missing", "mismatched", "unexpected", "ignored")
        return {**asdict(self), **{f"num_{name}": len(getattr(self, name)) for name in lists}}


def load_pretrained_strict(
    model: nn.Module,
    checkpoint_path: str | Path,
    freeze_encoder: bool = True,
    min_match_ratio: float = 0.80,
    allow_shape_mismatch: bool = False,
    *,
    scope: str = "encoder",
) -> dict[str, Any]:
    """Copy a pretrained encoder into a model, or change nothing and say why.

    Parameters
    ----------
    model
        Its encoder is the submodule named ``encoder``, ``encoder_lstm`` or ``lstm``.
    checkpoint_path
        A checkpoint folder, a ``.safetensors`` or a ``.pt`` file.
    freeze_encoder
        Set ``requires_grad`` of the encoder's parameters to False after the copy.
    min_match_ratio
        Least share of tensors that must match, within `scope`.
    allow_shape_mismatch
        Leave tensors of another shape out instead of refusing.
    scope
        What the ratio is taken over: ``encoder`` or ``model``.

    Returns
    -------
    The :class:`LoadReport` as a dict.

    Raises
    ------
    CheckpointError
        If the file is absent or no checkpoint, too few tensors match, a shape differs, or the copy
        does not compare equal; the model then equals its former self bit for bit.
    """
    check_choice("scope", scope, ("encoder", "model"))
    check_range("min_match_ratio", min_match_ratio, low=0, high=1)
    checkpoint = read_checkpoint(Path(checkpoint_path))
    own = model.state_dict()
    plan, report = _match(own, checkpoint, str(checkpoint_path), scope, min_match_ratio)
    _require(report, allow_shape_mismatch)
    _copy(own, plan)
    frozen = _freeze(model, freeze_encoder)
    values = {**report.__dict__, "frozen_tensors": frozen[0], "frozen_parameters": frozen[1]}
    return LoadReport(**values).to_dict()


def is_encoder_tensor(name: str) -> bool:
    """Whether a tensor of a model, by its name, belongs to the encoder."""
    return _canonical(name)[1]


def _canonical(name: str) -> tuple[str, bool]:
    """Return a tensor's name without wrappers and encoder prefix, and whether it is an encoder's."""
    while any(name.startswith(w) for w in _WRAPPERS):
        name = name.split(".", 1)[1]
    for prefix in ENCODER_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix), True
    return name, _LSTM_TENSOR.fullmatch(name) is not None


def _match(
    own: Mapping[str, torch.Tensor], checkpoint: Checkpoint, path: str, scope: str, minimum: float
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    whole_is_encoder = checkpoint.form == "encoder_state_dict"
    given: dict[tuple[str, bool], tuple[str, torch.Tensor]] = {}
    for key, tensor in checkpoint.tensors.items():
        name, is_encoder = _canonical(key)
        given[name, is_encoder or whole_is_encoder] = (key, tensor)
    encoder = [n for n in own if is_encoder_tensor(n)]
    wanted = encoder if scope == "encoder" else list(own)
    plan, missing, mismatched, used = {}, [], [], set()
    for name in wanted:
        entry = given.get(_canonical(name))
        if entry is None:
            missing.append(name)
            continue
        used.add(entry[0])
        if entry[1].shape == own[name].shape:
            plan[name] = entry[1]
        else:
            shapes = {"checkpoint": list(entry[1].shape), "model": list(own[name].shape)}
            mismatched.append({"name": name, **shapes})
    left = [(key, *_canonical(key)) for key in checkpoint.tensors if key not in used]
    forward_only = bool(encoder) and not any(n.endswith("_reverse") for n in encoder)
    ignored = [
        key
        for key, name, is_encoder in left
        if not (is_encoder or whole_is_encoder) or (forward_only and name.endswith("_reverse"))
    ]
    report = LoadReport(
        checkpoint=path,
        checkpoint_sha256=checkpoint.sha256,
        checkpoint_form=checkpoint.form,
        scope=scope,
        matched=tuple(plan),
        missing=tuple(missing),
        mismatched=tuple(mismatched),
        unexpected=tuple(key for key, _, _ in left if key not in ignored),
        ignored=tuple(ignored),
        match_ratio_encoder=_ratio(plan, own, encoder, by_size=False),
        match_ratio_model=_ratio(plan, own, list(own), by_size=False),
        match_ratio_encoder_parameters=_ratio(plan, own, encoder, by_size=True),
        match_ratio_model_parameters=_ratio(plan, own, list(own), by_size=True),
        min_match_ratio=minimum,
    )
    return plan, report


def _ratio(
    plan: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    names: list[str],
    *,
    by_size: bool,
) -> float:
    def weigh(chosen: list[str]) -> int:
        return sum(own[n].numel() if by_size else 1 for n in chosen)

    return weigh([n for n in names if n in plan]) / weigh(names) if names else 0.0


def _require(report: LoadReport, allow_shape_mismatch: bool) -> None:
    if report.mismatched and not allow_shape_mismatch:
        first = report.mismatched[0]
        raise CheckpointError(
            f"pretrained load refused: {len(report.mismatched)} tensors of {report.checkpoint} have "
            f"another shape, first {first['name']}: checkpoint {first['checkpoint']}",
            limit=f"{first['model']}, as the model has",
            remedy="Give the model the encoder's hidden size and layers (--preset), or pretrain "
            "one of the model's size (--hidden-dim, --num-layers)",
        )
    ratio = report.match_ratio_encoder if report.scope == "encoder" else report.match_ratio_model
    if not ratio >= report.min_match_ratio or not report.matched:
        total = len(report.matched) + len(report.missing) + len(report.mismatched)
        raise CheckpointError(
            f"pretrained load refused: {len(report.matched)} of {total} {report.scope} tensors of "
            f"the model match {report.checkpoint}, {ratio:.1%}",
            limit=f"at least {report.min_match_ratio:.0%}",
            remedy=_layer_hint(report),
        )


def _layer_hint(report: LoadReport) -> str:
    def layers(names: tuple[str, ...]) -> int:
        found = [int(m[1]) for n in names if (m := re.search(r"_l(\d+)", n))]
        return max(found, default=-1) + 1

    of_model, of_file = layers((*report.matched, *report.missing)), layers(
        (*report.matched, *report.unexpected)
    )
    if of_model and of_file and of_model != of_file:
        return f"The model has {of_model} LSTM layers, the checkpoint {of_file}: use num_layers={of_file}"
    return "Check that the checkpoint holds an encoder of this kind"


def _copy(own: Mapping[str, torch.Tensor], plan: Mapping[str, torch.Tensor]) -> None:
    """Copy into the model's own tensors; on any failure restore all of them."""
    before = {name: own[name].clone() for name in plan}
    try:
        with torch.no_grad():
            for name, tensor in plan.items():
                own[name].copy_(tensor.to(own[name]))
            wrong = [n for n, t in plan.items() if not torch.equal(own[n], t.to(own[n]))]
        if wrong:
            raise CheckpointError(f"tensor {wrong[0]} differs from the checkpoint after the copy")
    except BaseException:
        with torch.no_grad():
            for name, tensor in before.items():
                own[name].copy_(tensor)
        raise


def _freeze(model: nn.Module, freeze: bool) -> tuple[int, int]:
    if not freeze:
        return 0, 0
    frozen = [p for name, p in model.named_parameters() if is_encoder_tensor(name)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return len(frozen), sum(p.numel() for p in frozen)
