"""Strict loading of pretrained encoders: every tensor accounted for, all of them or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moola.config.base import check_choice, check_range
from moola.errors import CheckpointError
from moola.models.weights.checkpoint import Checkpoint, read_checkpoint
from moola.models.weights.frozen import all_frozen, still_modules
from moola.models.weights.load_report import LoadReport, num_layers, refusal
from moola.models.weights.net_tensors import BUFFER, PARAMETER, NetTensor, net_tensors, same_bits

ENCODER_PREFIXES = ("encoder_lstm.", "encoder.", "lstm.")
_WRAPPERS = ("module.", "_orig_mod.")
_RECURRENT = re.compile(r"weight_hh_l(\d+)")
LSTM_TENSOR = re.compile(r"(weight|bias)_(ih|hh)_l\d+(_reverse)?")


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
        Set ``requires_grad`` of the encoder's loaded parameters to False after the copy, and put
        its frozen modules into evaluation mode, so that their buffers stay fixed too (until
        ``model.train()``: a freeze schedule sees to it in every batch); a parameter that was not
        loaded keeps its own.
    min_match_ratio
        Least share of the model's tensors, within `scope`, that must match, with buffers and
        without, and of the checkpoint's encoder tensors, where it holds any, that must find a
        place.
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
        If the file is absent or no checkpoint, too few tensors match, a shape or a kind of number
        differs, a module's buffer is missing while its weights are there, a name is there twice, a
        value does not fit the model's type, or the model does not hold the values after the copy;
        the model then equals its former self bit for bit.
    ConfigError
        If a tensor of the model has no values yet, or is sparse or quantised.
    """
    check_choice("scope", scope, ("encoder", "model"))
    check_range("min_match_ratio", min_match_ratio, low=0, high=1)
    checkpoint = read_checkpoint(Path(checkpoint_path))
    tensors = net_tensors(model)
    targets = {n: t for n, t in model.state_dict().items() if n in tensors}
    path = str(checkpoint_path)
    plan, report = _match(
        targets, tensors, checkpoint, path=path, scope=scope, minimum=min_match_ratio
    )
    problem = refusal(report, allow_shape_mismatch=allow_shape_mismatch)
    if problem is not None:
        problem.proof = ("load_report", report.to_dict())
        raise problem
    _copy(model, targets, plan)
    frozen = _freeze(model, tensors, plan) if freeze_encoder else {}
    return LoadReport(**{**report.__dict__, **frozen}).to_dict()


def report_state_dict_load(
    model: nn.Module, checkpoint_path: str | Path, freeze_encoder: bool = False
) -> dict[str, Any]:
    """Load an encoder strictly and return the load report.

    The name it had in the notes that Moola grew out of: `load_pretrained_strict`, which refuses
    where too little matches instead of going on. `format_load_report` makes the printed report.
    """
    return load_pretrained_strict(model, checkpoint_path, freeze_encoder=freeze_encoder)


def lstm_sizes(tensors: Mapping[str, torch.Tensor]) -> tuple[int, int] | None:
    """Return units per direction and layers of the LSTM among a checkpoint's tensors.

    None where it holds no LSTM.
    """
    units: dict[int, int] = {}
    for key, tensor in tensors.items():
        name, _ = _canonical(key)
        if (match := _RECURRENT.fullmatch(name)) and tensor.ndim == 2:
            units[int(match[1])] = int(tensor.shape[1])
    return (units[0], len(units)) if 0 in units else None


def is_encoder_tensor(name: str) -> bool:
    """Whether a tensor of a model, by its name, belongs to the encoder."""
    return _canonical(name)[1]


def canonical_name(name: str) -> str:
    """Return a tensor's name without wrappers (``module.``) and encoder prefix (``lstm.``)."""
    return _canonical(name)[0]


def _canonical(name: str) -> tuple[str, bool]:
    """Return a tensor's bare name (see canonical_name), and whether it is an encoder's."""
    while any(name.startswith(w) for w in _WRAPPERS):
        name = name.split(".", 1)[1]
    bare = name
    while prefix := next((p for p in ENCODER_PREFIXES if bare.startswith(p)), None):
        bare = bare.removeprefix(prefix)
    if bare != name:
        return bare, True
    return name, LSTM_TENSOR.fullmatch(name) is not None


def _is_beyond(key: str, layers: int) -> bool:
    """Whether a one-way net of some layers has no place for a tensor by its nature.

    A reverse direction, or a layer above the net's, which reads both directions of the one below.
    """
    return key.endswith("_reverse") or num_layers([key]) > layers


@dataclass(frozen=True, kw_only=True)
class _Given:
    """A tensor of the checkpoint: its own key, and whether it is the encoder's."""

    key: str
    tensor: torch.Tensor
    is_encoder: bool


@dataclass(kw_only=True)
class _Plan:
    """Which tensor goes where; names are the model's, `used` are the checkpoint's keys."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: list[dict[str, Any]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def _match(
    targets: Mapping[str, torch.Tensor],
    tensors: Mapping[str, NetTensor],
    checkpoint: Checkpoint,
    *,
    path: str,
    scope: str,
    minimum: float,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    sources = _by_canonical_name(checkpoint, path)
    encoder = [n for n in targets if is_encoder_tensor(n)]
    wanted = encoder if scope == "encoder" else list(targets)
    trainable = [n for n in wanted if tensors[n].kind == PARAMETER]
    plan = _plan(targets, wanted, sources, path)
    unused = [entry for entry in sources.values() if entry.key not in plan.used]
    forward_only = bool(encoder) and not any(n.endswith("_reverse") for n in encoder)
    layers = num_layers(encoder)
    unexpected = [
        entry.key
        for entry in unused
        if entry.is_encoder and not (forward_only and _is_beyond(entry.key, layers))
    ]
    num_matched = sum(n in plan.tensors for n in encoder)
    of_file = (
        num_matched + len(unexpected) + sum(is_encoder_tensor(m["name"]) for m in plan.mismatched)
    )
    report = LoadReport(
        checkpoint=path,
        checkpoint_sha256=checkpoint.sha256,
        checkpoint_form=checkpoint.form,
        scope=scope,
        matched=tuple(plan.tensors),
        missing=tuple(plan.missing),
        mismatched=tuple(plan.mismatched),
        unexpected=tuple(unexpected),
        ignored=tuple(entry.key for entry in unused if entry.key not in unexpected),
        match_ratio_encoder=_ratio(plan.tensors, targets, encoder, by_size=False),
        match_ratio_model=_ratio(plan.tensors, targets, list(targets), by_size=False),
        match_ratio_encoder_parameters=_ratio(plan.tensors, targets, encoder, by_size=True),
        match_ratio_model_parameters=_ratio(plan.tensors, targets, list(targets), by_size=True),
        encoder_taken=num_matched,
        encoder_given=of_file,
        match_ratio_checkpoint=num_matched / of_file if of_file else 0.0,
        buffers=_buffers(tensors, plan, scope),
        match_ratio_without_buffers=(
            _ratio(plan.tensors, targets, trainable, by_size=False) if trainable else 1.0
        ),
        min_match_ratio=minimum,
        cast=_casts(targets, plan.tensors),
    )
    return plan.tensors, report


def _plan(
    targets: Mapping[str, torch.Tensor],
    wanted: list[str],
    sources: Mapping[tuple[str, bool], _Given],
    path: str,
) -> _Plan:
    plan = _Plan()
    for name in wanted:
        entry = sources.get(_canonical(name))
        if entry is None:
            plan.missing.append(name)
            continue
        if entry.key in plan.used:
            raise CheckpointError(
                f"two tensors of the model would take {entry.key} of {path}, the second is {name}",
                limit="one encoder",
            )
        plan.used.add(entry.key)
        _require_type(name, targets[name], entry, path)
        if entry.tensor.shape == targets[name].shape:
            plan.tensors[name] = entry.tensor
        else:
            shapes = {"checkpoint": list(entry.tensor.shape), "model": list(targets[name].shape)}
            plan.mismatched.append({"name": name, **shapes})
    return plan


def _buffers(
    tensors: Mapping[str, NetTensor], plan: _Plan, scope: str
) -> dict[str, tuple[str, ...]]:
    unsaved = [n for n, t in tensors.items() if not t.is_saved]
    groups = {
        "matched": plan.tensors,
        "missing": plan.missing,
        "mismatched": [m["name"] for m in plan.mismatched],
        "not_saved": [n for n in unsaved if scope == "model" or is_encoder_tensor(n)],
    }
    return {
        what: tuple(n for n in names if tensors[n].kind == BUFFER) for what, names in groups.items()
    }


def _casts(
    targets: Mapping[str, torch.Tensor], plan: Mapping[str, torch.Tensor]
) -> tuple[dict[str, str], ...]:
    return tuple(
        {"name": n, "checkpoint": str(t.dtype), "model": str(targets[n].dtype)}
        for n, t in plan.items()
        if t.dtype != targets[n].dtype
    )


def _by_canonical_name(checkpoint: Checkpoint, path: str) -> dict[tuple[str, bool], _Given]:
    whole = checkpoint.form == "encoder_state_dict"
    sources: dict[tuple[str, bool], _Given] = {}
    for key, tensor in sorted(checkpoint.tensors.items()):
        name, is_encoder = _canonical(key)
        identity = (name, is_encoder or whole)
        if identity in sources:
            raise CheckpointError(
                f"{path} holds {name} twice, as {sources[identity].key} and as {key}",
                limit="one encoder in a checkpoint",
                remedy="Save the encoder that is meant by itself",
            )
        sources[identity] = _Given(key=key, tensor=tensor, is_encoder=identity[1])
    return sources


def _require_type(name: str, target: torch.Tensor, source: _Given, path: str) -> None:
    """Floats go into floats, whatever their width; anything else must be of the same type."""
    both_float = target.is_floating_point() and source.tensor.is_floating_point()
    if not both_float and target.dtype != source.tensor.dtype:
        wanted = "floating point" if target.is_floating_point() else str(target.dtype)
        raise CheckpointError(
            f"tensor {source.key} of {path} is of type {source.tensor.dtype}",
            limit=f"{wanted}, as {name} is of type {target.dtype}",
        )


def _ratio(
    plan: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    names: list[str],
    *,
    by_size: bool,
) -> float:
    def weigh(chosen: list[str]) -> int:
        return sum(targets[n].numel() if by_size else 1 for n in chosen)

    return weigh([n for n in names if n in plan]) / weigh(names) if names else 0.0


def _copy(
    model: nn.Module, targets: Mapping[str, torch.Tensor], plan: Mapping[str, torch.Tensor]
) -> None:
    """Copy into the model's own tensors; on any failure restore all of them.

    The model is asked anew for what it holds: what a state dict gives out may be a copy.
    """
    converted = {name: tensor.to(targets[name]) for name, tensor in plan.items()}
    for name, tensor in converted.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name} does not fit into {tensor.dtype}: the checkpoint's "
                f"{plan[name].dtype} holds {float(plan[name].abs().max()):g}",
                limit=f"at most {torch.finfo(tensor.dtype).max:g}",
            )
    before = {name: targets[name].clone() for name in plan}
    try:
        with torch.no_grad():
            for name, tensor in converted.items():
                targets[name].copy_(tensor)
            now = model.state_dict()
            wrong = [n for n, t in converted.items() if not same_bits(now[n], t)]
        if wrong:
            raise CheckpointError(f"tensor {wrong[0]} differs from the checkpoint after the copy")
    except BaseException:
        with torch.no_grad():
            for name, tensor in before.items():
                targets[name].copy_(tensor)
        raise


def _freeze(
    model: nn.Module, tensors: Mapping[str, NetTensor], loaded: Mapping[str, torch.Tensor]
) -> dict[str, int]:
    """Freeze the encoder's loaded parameters; one that starts at random must be free to learn."""
    encoder = [n for n in tensors if is_encoder_tensor(n)]
    fresh = [n for n in encoder if tensors[n].is_saved and n not in loaded]
    frozen = all_frozen(tensors, {n for n in encoder if n in loaded}, fresh)
    parameters = {
        id(t.tensor): t.tensor for n, t in tensors.items() if n in frozen and t.kind == PARAMETER
    }.values()
    for parameter in parameters:
        parameter.requires_grad_(False)
    for module in still_modules(model, tensors, frozen).values():
        module.training = False
    return {
        "frozen_tensors": len(parameters),
        "frozen_parameters": sum(p.numel() for p in parameters),
        "frozen_buffers": sum(tensors[n].kind == BUFFER for n in frozen),
    }
