"""The report of a gate: verdict, figures, thresholds, and reasons in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from moola.config.gates import GATES, KNOWN, Gate, GateAbout
from moola.errors import BadInput

SCHEMA_VERSION = 1
Verdict = Literal["passed", "failed", "inconclusive", "deferred", "blocked", "held"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_FIELDS = ("gate", "name", "question", "verdict", "figures", "thresholds", "reasons")
_EVALUATE_AGAIN = "Evaluate the candidate again with this version of Moola"
JSON_SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"Moola gate report, version {SCHEMA_VERSION}",
    "type": "object",
    "properties": {
        "schema_version": {"const": SCHEMA_VERSION},
        "gate": {"enum": KNOWN},
        "name": {"type": "string"},
        "question": {"type": "string"},
        "verdict": {"enum": list(VERDICTS)},
        "figures": {"type": "object"},
        "thresholds": {"type": "object"},
        "reasons": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    },
    "required": ["schema_version", *_FIELDS],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The answer of one gate.

    Attributes
    ----------
    gate
        Its number, or ``"promotion"``.
    name, question
        Short name and the question the gate answers.
    verdict
        ``passed``, ``failed``, ``inconclusive``, ``deferred``, ``blocked`` or ``held``.
    figures
        JSON-ready; an interval is ``{"estimate", "low", "high"}``, an undefined figure is None.
    thresholds
        Those the verdict depends on.
    reasons
        Plain sentences; the first gives the reason of the verdict.

    Raises
    ------
    BadInput
        On an unknown gate or verdict, without a reason, or on NaN or infinity in the figures.
    """

    gate: Gate
    name: str
    question: str
    verdict: Verdict
    figures: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gate not in GATES or isinstance(self.gate, bool):
            raise BadInput(f"gate is {self.gate!r}", limit=f"one of {', '.join(map(str, KNOWN))}")
        if self.verdict not in VERDICTS:
            raise BadInput(f"verdict is {self.verdict!r}", limit=f"one of {', '.join(VERDICTS)}")
        if not self.reasons:
            raise BadInput(f"gate {self.gate} gives no reason", limit="at least one sentence")
        object.__setattr__(self, "reasons", tuple(self.reasons))
        for path, value in _numbers("figures", self.figures):
            if not math.isfinite(value):
                raise BadInput(f"{path} is {value}", limit="a finite number, or null with a reason")

    @property
    def advisory(self) -> bool:
        """Whether the gate only warns: gates 6 and 7, and a trial of an unused ingredient."""
        return GATES[self.gate].advisory or self.figures.get("trial") is True

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values with the schema's version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "gate": self.gate,
            "name": self.name,
            "question": self.question,
            "verdict": self.verdict,
            "figures": self.figures,
            "thresholds": self.thresholds,
            "reasons": list(self.reasons),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the report from the values of `to_dict`.

        Parameters
        ----------
        values
            As read from JSON.

        Raises
        ------
        BadInput
            If the schema's version differs, or a key is missing or unknown.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BadInput(
                f"the gate report has schema version {version!r}",
                limit=f"version {SCHEMA_VERSION}",
                remedy=_EVALUATE_AGAIN,
            )
        odd = sorted(set(_FIELDS) ^ (set(values) - {"schema_version"}))
        if odd:
            state = "lacks" if odd[0] in _FIELDS else "has the unknown"
            raise BadInput(
                f"the gate report {state} key {odd[0]!r}",
                limit=", ".join(_FIELDS),
                remedy=_EVALUATE_AGAIN,
            )
        arguments = {name: values[name] for name in _FIELDS}
        return cls(**(arguments | {"reasons": tuple(values["reasons"])}))


def report(
    gate: Gate,
    verdict: Verdict,
    reasons: Iterable[str],
    *,
    figures: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, Any] | None = None,
) -> GateReport:
    """Return a `GateReport` with the gate's own name and question."""
    about = GATES.get(gate, GateAbout(name=str(gate), question=""))
    return GateReport(
        gate=gate,
        name=about.name,
        question=about.question,
        verdict=verdict,
        figures=dict(figures or {}),
        thresholds=dict(thresholds or {}),
        reasons=tuple(reasons),
    )


def blocked(gate: Gate, reason: str) -> GateReport:
    """Return the report of a gate that must not be run."""
    return report(gate, "blocked", (reason,))


def deferred(gate: Gate, reason: str) -> GateReport:
    """Return the report of a gate that has to wait."""
    return report(gate, "deferred", (reason,))


def sentence(reason: str) -> str:
    """Return a reason with a capital letter and a full stop."""
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith(".") else ".")


def require_keys(values: Mapping[str, Any], keys: tuple[str, ...], name: str) -> None:
    """Raise BadInput unless `values` has every key."""
    for key in keys:
        if key not in values:
            raise BadInput(
                f"{name} lacks {key!r}", limit=", ".join(keys), remedy="Train the candidate again"
            )


def _numbers(path: str, value: Any) -> Iterable[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _numbers(f"{path}[{index}]", inner)
    elif isinstance(value, float):
        yield path, value
