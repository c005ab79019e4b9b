"""What a checkpoint gave a model: the report, in numbers and in words, and the reason to refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moola.errors import CheckpointError
from moola.models.weights.frozen import owner

_WIDTH = 80
_LAYER = re.compile(r"_l(\d+)(_reverse)?$")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a checkpoint gave a model, tensor by tensor.

    Names are the model's, except `unexpected` and `ignored`, which are the checkpoint's. Ratios
    are matched over the model's own tensors (or parameters), within the encoder and over the whole
    model; `match_ratio_checkpoint` is `encoder_taken` over `encoder_given`, the encoder tensors the
    model takes and those the checkpoint holds, 0 where it holds none. `ignored` are tensors that
    are not the encoder's, and for a one-way model the reverse directions and the layers above its
    own. `cast` are tensors stored in another float type. Tensors are parameters and buffers;
    `buffers` names those of the model that are buffers, under ``matched``, ``missing`` and
    ``mismatched`` once more, and under ``not_saved`` those that no checkpoint holds
    (``persistent=False``). `match_ratio_without_buffers` is within `scope`, 1 where there are only
    buffers.
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
    encoder_taken: int
    encoder_given: int
    match_ratio_checkpoint: float
    buffers: Mapping[str, tuple[str, ...]]
    match_ratio_without_buffers: float
    cast: tuple[dict[str, str], ...] = ()
    frozen_tensors: int = 0
    frozen_parameters: int = 0
    frozen_buffers: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, counts beside the lists."""
        lists = ("matched", "missing", "mismatched", "unexpected", "ignored")
        return {**asdict(self), **{f"num_{name}": len(getattr(self, name)) for name in lists}}


def num_layers(tensors: Iterable[str]) -> int:
    """Return the number of LSTM layers that tensor names such as ``weight_ih_l1`` speak of."""
    return max((int(m[1]) + 1 for name in tensors if (m := _LAYER.search(name))), default=0)


def layer_diagnosis(of_model: int, of_file: int, *, num_taken: int, num_given: int) -> str | None:
    """Return what another number of layers means; None where it is the same or unknown.

    Parameters
    ----------
    of_model, of_file
        LSTM layers of the model and of the checkpoint.
    num_taken, num_given
        Encoder tensors the model takes, and those the checkpoint has.

    Returns
    -------
    str or None
        A sentence with the remedy.
    """
    if not of_model or not of_file or of_model == of_file:
        return None
    layers = "1 layer takes" if of_model == 1 else f"{of_model} layers take"
    return f"{layers} {num_taken} of {num_given} encoder tensors: use num_layers={of_file}"


def refusal(report: LoadReport, *, allow_shape_mismatch: bool) -> CheckpointError | None:
    """Return why a load must not be carried out, None if it may."""
    if report.mismatched and not allow_shape_mismatch:
        first = report.mismatched[0]
        return CheckpointError(
            f"pretrained load refused: {len(report.mismatched)} tensors of {report.checkpoint} "
            f"have another shape, first {first['name']}: checkpoint {first['checkpoint']}",
            limit=f"{first['model']}, as the model has",
            remedy="Leave out --hidden-size and --num-layers, so that the model takes those of the "
            "encoder, or pretrain one of the model's size (--hidden-dim, --num-layers)",
        )
    if half := _half_loaded(report):
        return half
    of_model = report.match_ratio_encoder if report.scope == "encoder" else report.match_ratio_model
    matched = len(report.matched)
    limit = f"at least {report.min_match_ratio:.0%}"
    if not of_model >= report.min_match_ratio or not matched:
        total = matched + len(report.missing) + len(report.mismatched)
        what = "encoder tensors" if report.scope == "encoder" else "tensors"
        return CheckpointError(
            f"pretrained load refused: {matched} of {total} {what} of the model match "
            f"{report.checkpoint}, {of_model:.1%}",
            limit=limit,
            remedy=_advice(report),
        )
    if not report.match_ratio_without_buffers >= report.min_match_ratio:
        return CheckpointError(
            f"pretrained load refused: without buffers, {report.match_ratio_without_buffers:.1%} "
            f"of the model's tensors match {report.checkpoint}",
            limit=limit,
            remedy=_advice(report),
        )
    if report.encoder_given and not report.match_ratio_checkpoint >= report.min_match_ratio:
        return CheckpointError(
            f"pretrained load refused: the model takes {report.encoder_taken} of the "
            f"{report.encoder_given} encoder tensors of {report.checkpoint}, "
            f"{report.match_ratio_checkpoint:.1%}",
            limit=limit,
            remedy=_advice(report),
        )
    return None


def format_load_report(report: Mapping[str, Any]) -> str:
    """Return the report as the block of text that a run prints.

    Parameters
    ----------
    report
        ``LoadReport.to_dict()``, or what ``load_pretrained_strict`` returned.

    Returns
    -------
    str
        Several lines, between two rules.
    """
    total = report["num_matched"] + report["num_missing"] + report["num_mismatched"]
    share = report["num_matched"] / total if total else 0.0
    first = ", ".join(report["matched"][:5]) + (", ..." if report["num_matched"] > 5 else "")
    rule = "=" * _WIDTH
    lines = [
        rule,
        "PRETRAINED LOAD REPORT",
        rule,
        f"Checkpoint: {report['checkpoint']} (SHA-256 {report['checkpoint_sha256'][:16]})",
        f"Model tensors ({report['scope']}): {total}",
        f"Matched: {report['num_matched']} tensors ({share:.1%})",
        f"Missing: {report['num_missing']} tensors (will be trained from scratch)",
        f"Shape mismatches: {report['num_mismatched']}",
        f"Unexpected: {report['num_unexpected']}, not the encoder's: {report['num_ignored']}",
        f"Match ratio: encoder {report['match_ratio_encoder']:.1%} of the tensors "
        f"({report['match_ratio_encoder_parameters']:.1%} of the parameters), whole model "
        f"{report['match_ratio_model']:.1%} ({report['match_ratio_model_parameters']:.1%})",
        *_buffer_lines(report["buffers"]),
        f"Matched tensors (first 5): {first or 'none'}",
        f"Loaded {report['num_matched']} tensors into the model",
        f"Froze {report['frozen_tensors']} encoder tensors "
        f"({report['frozen_parameters']:,} parameters)"
        + (f" and {report['frozen_buffers']} buffers" if report["frozen_buffers"] else ""),
        rule,
    ]
    return "\n".join(lines)


def _half_loaded(report: LoadReport) -> CheckpointError | None:
    """Return why not to load a module's weights without its statistics: they belong together."""
    modules = {owner(n) for n in report.matched}
    half = [n for n in report.buffers["missing"] if owner(n) in modules]
    if not half:
        return None
    return CheckpointError(
        f"pretrained load refused: {report.checkpoint} brings tensors of {owner(half[0])} but not "
        f"its buffer {half[0]}" + (f", nor {len(half) - 1} more buffers" if half[1:] else ""),
        limit="all buffers of a module with its weights: defaults are not what it was trained with",
        remedy="Save the encoder's whole state dict, buffers included",
    )


def _buffer_lines(buffers: Mapping[str, Sequence[str]]) -> list[str]:
    if not any(buffers.values()):
        return []
    counts = ", ".join(f"{len(names)} {what.replace('_', ' ')}" for what, names in buffers.items())
    return [f"Buffers among them: {counts}"]


def _advice(report: LoadReport) -> str:
    diagnosis = layer_diagnosis(
        num_layers((*report.matched, *report.missing)),
        num_layers((*report.matched, *report.unexpected)),
        num_taken=report.encoder_taken,
        num_given=report.encoder_given,
    )
    return diagnosis or "Check that the checkpoint holds an encoder of this kind"
