"""Two checkpoints held side by side: what is equal, what moved how far, what one of them lacks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from moola.models.pretrained_utils import LSTM_TENSOR, canonical_name, is_encoder_tensor
from moola.models.weights.checkpoint import Checkpoint
from moola.models.weights.load_report import layer_diagnosis, num_layers
from moola.models.weights.net_tensors import BUFFER, PARAMETER, same_bits

AS_INITIALISED, TRAINED = "as initialised", "trained"
_Z_LIMIT = 4.0
_UNIFORM_KURTOSIS = 1.8
_BUFFER = re.compile(r"(.*\.)?(running_mean|running_var|num_batches_tracked|_u|_v|\w+_u)")


@dataclass(frozen=True, kw_only=True)
class InitSignal:
    """An LSTM tensor's spread against what PyTorch starts it with, uniform(-1/sqrt(h), 1/sqrt(h)).

    Attributes
    ----------
    std, expected_std
        Of the tensor, and ``1 / sqrt(3 h)``.
    z
        Difference of the two in standard errors of a uniform sample's standard deviation.
    beyond_bound
        Share of values outside the initialiser's interval; a fresh tensor has none.
    verdict
        ``as initialised`` where nothing is beyond and ``|z| <= 4``; else ``trained``.
    """

    std: float
    expected_std: float
    z: float
    beyond_bound: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class TensorPair:
    """One tensor that both checkpoints have, under its bare name.

    `kind` is ``parameter`` or ``buffer``, told by the names that PyTorch gives buffers and by whole
    numbers, as a checkpoint does not say. `equal` compares bits, and values where types differ;
    `relative_change` is ``|b - a| / |a|``, None where shapes differ; signals are None for what is
    not an LSTM's.
    """

    name: str
    kind: str
    is_encoder: bool
    type_a: str
    type_b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    equal: bool
    largest_difference: float | None
    relative_change: float | None
    signal_a: InitSignal | None
    signal_b: InitSignal | None


@dataclass(frozen=True, kw_only=True)
class CheckpointComparison:
    """What two checkpoints have in common, and not.

    `only_a` and `only_b` are bare names, `encoder_only_a` and `encoder_only_b` those of the encoder
    among them; `layers_a` and `layers_b` count LSTM layers.
    """

    a: str
    b: str
    pairs: tuple[TensorPair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    layers_a: int
    layers_b: int
    encoder_only_a: tuple[str, ...] = ()
    encoder_only_b: tuple[str, ...] = ()

    def encoder_pairs(self) -> tuple[TensorPair, ...]:
        """Return the pairs of the encoder."""
        return tuple(p for p in self.pairs if p.is_encoder)

    def findings(self) -> list[str]:
        """Return what it means, in words, the gravest first."""
        return [
            *_layer_findings(self),
            *_encoder_findings(self),
            *_only_findings(self),
            *_signal_findings(self),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return {**asdict(self), "findings": self.findings()}


def compare_checkpoints(
    first: Checkpoint, second: Checkpoint, *, names: tuple[str, str] = ("A", "B")
) -> CheckpointComparison:
    """Compare two checkpoints tensor by tensor, whatever their prefixes.

    Parameters
    ----------
    first, second
        As read by ``read_checkpoint``; `first` is the older one, such as the encoder.
    names
        What to call them.

    Returns
    -------
    CheckpointComparison
        By bare names, in the order of the first.
    """
    a, b = _bare(first), _bare(second)
    pairs = [
        _pair(name, a[name][0], b[name][0], is_encoder=a[name][1] or b[name][1])
        for name in a
        if name in b
    ]
    only_a, only_b = tuple(n for n in a if n not in b), tuple(n for n in b if n not in a)
    return CheckpointComparison(
        a=names[0],
        b=names[1],
        pairs=tuple(pairs),
        only_a=only_a,
        only_b=only_b,
        layers_a=num_layers(_lstm(a)),
        layers_b=num_layers(_lstm(b)),
        encoder_only_a=tuple(n for n in only_a if a[n][1]),
        encoder_only_b=tuple(n for n in only_b if b[n][1]),
    )


def tensor_kind(name: str, tensor: torch.Tensor) -> str:
    """Return ``buffer`` for what PyTorch names so or holds no fractions, else ``parameter``."""
    fractions = tensor.is_floating_point() or tensor.is_complex()
    return PARAMETER if fractions and not _BUFFER.fullmatch(name) else BUFFER


def init_signal(name: str, tensor: torch.Tensor) -> InitSignal | None:
    """Return how like its initialiser an LSTM tensor looks; None for any other tensor."""
    if not LSTM_TENSOR.fullmatch(name) or not tensor.is_floating_point() or tensor.numel() < 2:
        return None
    values = tensor.detach().double()
    bound = 1.0 / math.sqrt(values.shape[0] // 4)
    expected = bound / math.sqrt(3.0)
    std = float(values.std())
    error = expected * math.sqrt((_UNIFORM_KURTOSIS - 1.0) / (4.0 * values.numel()))
    z = (std - expected) / error
    beyond = float((values.abs() > bound * (1 + 1e-6)).double().mean())
    fresh = beyond == 0.0 and abs(z) <= _Z_LIMIT
    return InitSignal(
        std=std,
        expected_std=expected,
        z=z,
        beyond_bound=beyond,
        verdict=AS_INITIALISED if fresh else TRAINED,
    )


def _bare(checkpoint: Checkpoint) -> dict[str, tuple[torch.Tensor, bool]]:
    """Return tensor and whether it is the encoder's, by bare name; if that is taken, by its key."""
    whole = checkpoint.form == "encoder_state_dict"
    tensors: dict[str, tuple[torch.Tensor, bool]] = {}
    for key in sorted(checkpoint.tensors, key=lambda k: (not is_encoder_tensor(k), k)):
        name = canonical_name(key)
        entry = checkpoint.tensors[key], whole or is_encoder_tensor(key)
        tensors[key if name in tensors else name] = entry
    return tensors


def _lstm(names: Iterable[str]) -> list[str]:
    return [n for n in names if LSTM_TENSOR.fullmatch(n)]


def _pair(name: str, a: torch.Tensor, b: torch.Tensor, *, is_encoder: bool) -> TensorPair:
    same_shape = a.shape == b.shape
    difference = change = None
    if same_shape and a.numel():
        wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
        start = a.to(wide)
        moved = (b.to(wide) - start).abs()
        difference = float(moved.max())
        norm = float(start.norm())
        change = float(moved.norm()) / norm if norm else (0.0 if difference == 0 else math.inf)
    same_values = same_shape and difference in (0.0, None)
    return TensorPair(
        name=name,
        kind=tensor_kind(name, a),
        is_encoder=is_encoder,
        type_a=str(a.dtype).removeprefix("torch."),
        type_b=str(b.dtype).removeprefix("torch."),
        shape_a=tuple(a.shape),
        shape_b=tuple(b.shape),
        equal=same_bits(a, b) if a.dtype == b.dtype else same_values,
        largest_difference=difference,
        relative_change=None if change is None or math.isinf(change) else change,
        signal_a=init_signal(name, a),
        signal_b=init_signal(name, b),
    )


def _layer_findings(comparison: CheckpointComparison) -> list[str]:
    lines = []
    if comparison.layers_a != comparison.layers_b and comparison.layers_a and comparison.layers_b:
        small, large = sorted(
            (
                (comparison.layers_a, comparison.a, comparison.only_a),
                (comparison.layers_b, comparison.b, comparison.only_b),
            ),
            key=lambda side: side[0],
        )
        num_pairs = len(comparison.encoder_pairs())
        advice = layer_diagnosis(
            small[0], large[0], num_taken=num_pairs, num_given=num_pairs + len(_lstm(large[2]))
        )
        lines.append(f"layer mismatch: {small[1]} has {small[0]}, {large[1]} {large[0]}; {advice}")
    shapes = [p for p in comparison.encoder_pairs() if p.shape_a != p.shape_b]
    if shapes:
        first = shapes[0]
        lines.append(
            f"{len(shapes)} encoder tensors differ in shape, first {first.name}: "
            f"{list(first.shape_a)} and {list(first.shape_b)}"
        )
    return lines


def _encoder_findings(comparison: CheckpointComparison) -> list[str]:
    pairs = [p for p in comparison.encoder_pairs() if p.shape_a == p.shape_b]
    if not pairs:
        return ["the two have no encoder tensor in common"]
    equal = sum(p.equal for p in pairs)
    cast = [p for p in pairs if p.type_a != p.type_b]
    if equal == len(pairs) and cast:
        return [
            f"all {equal} encoder tensors are equal in value, {len(cast)} of them of another type, "
            f"first {cast[0].name}: {cast[0].type_a} and {cast[0].type_b}"
        ]
    if equal == len(pairs):
        if (
            comparison.pairs == tuple(p for p in comparison.pairs if p.equal)
            and not comparison.only_b
        ):
            return [f"all {len(comparison.pairs)} common tensors are equal to the bit"]
        return [
            f"all {equal} encoder tensors are equal to the bit: no training step touched the "
            f"encoder between {comparison.a} and {comparison.b} (frozen all along)"
        ]
    changes = [p.relative_change for p in pairs if p.relative_change is not None and not p.equal]
    line = f"{len(pairs) - equal} of {len(pairs)} encoder tensors differ"
    if changes:
        line += f", by {min(changes):.1%} to {max(changes):.1%} of their norm"
    if equal:
        line += f"; equal: {', '.join(p.name for p in pairs if p.equal)}"
    moved = [p for p in pairs if not p.equal]
    if all(p.kind == BUFFER for p in moved):
        return [
            f"the encoder's weights are equal, but {len(moved)} of its buffers moved "
            f"({', '.join(p.name for p in moved[:4])}{', ...' if moved[4:] else ''}): it was "
            "frozen by its weights only and does not answer as before",
            line,
        ]
    return [line]


def _only_findings(comparison: CheckpointComparison) -> list[str]:
    """Return the encoder's tensors that one lacks, where the number of layers does not say it."""
    if comparison.layers_a != comparison.layers_b:
        return []
    return [
        f"{len(names)} encoder tensors are in {label} only: {', '.join(names[:4])}"
        + (", ..." if names[4:] else "")
        for label, names in (
            (comparison.a, comparison.encoder_only_a),
            (comparison.b, comparison.encoder_only_b),
        )
        if names
    ]


def _signal_findings(comparison: CheckpointComparison) -> list[str]:
    lines = []
    for label, which in ((comparison.a, "signal_a"), (comparison.b, "signal_b")):
        signals: Mapping[str, InitSignal] = {
            p.name: s for p in comparison.encoder_pairs() if (s := getattr(p, which)) is not None
        }
        fresh = [n for n, s in signals.items() if s.verdict == AS_INITIALISED]
        if fresh and len(fresh) == len(signals):
            lines.append(f"{label}: all {len(fresh)} common encoder tensors look as initialised")
        elif fresh:
            lines.append(
                f"{label}: {len(fresh)} of {len(signals)} encoder tensors look as initialised "
                f"({', '.join(fresh[:4])}{', ...' if len(fresh) > 4 else ''})"
            )
        elif signals:
            lines.append(f"{label}: all {len(signals)} common encoder tensors look trained")
    return lines
