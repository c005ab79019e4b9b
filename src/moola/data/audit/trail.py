"""What an audit says: its checks, and what a pretraining corpus claims to cover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config.data import parse_utc
from moola.errors import AuditError, ConfigError, DataError

NAMED = 5


@dataclass(frozen=True, kw_only=True)
class CorpusClaim:
    """Which bars a pretraining corpus covers, as an encoder's checkpoint states it."""

    name: str
    sha256: str
    source: str
    source_sha256: str
    first_bar: str
    last_bar: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CorpusClaim:
        """Read a claim; raises DataError where a field is absent."""
        try:
            return cls(**{k: str(values[k]) for k in cls.__dataclass_fields__})
        except (KeyError, TypeError):
            raise DataError(
                "the corpus claim is incomplete",
                limit=f"the fields {', '.join(cls.__dataclass_fields__)}",
                remedy="Pretrain the encoder with Moola, which writes it",
            ) from None

    def span(self) -> tuple[np.datetime64, np.datetime64]:
        """Return the first and the last bar's UTC time; raises DataError unless they are times."""
        try:
            times = [parse_utc(v, "corpus time") for v in (self.first_bar, self.last_bar)]
        except ConfigError as error:
            raise DataError(f"the corpus claim of {self.name}: {error.problem}") from None
        first, last = (np.datetime64(t.replace(tzinfo=None), "us") for t in times if t is not None)
        if first > last:
            raise DataError(f"corpus {self.name} ends at {last}", limit=f"a time after {first}")
        return first, last

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the audit and its answer."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class AuditTrail:
    """What was checked, on which data, with what result."""

    checks: tuple[Check, ...]
    facts: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(c.passed for c in self.checks)

    def require(self) -> None:
        """Raise AuditError with the first failed check."""
        for check in self.checks:
            if not check.passed:
                error = AuditError(f"audit of {self.facts['split']}: {check.name}: {check.detail}")
                error.proof = ("audit", self.to_dict())
                raise error

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "passed": self.passed,
            "checks": [asdict(c) for c in self.checks],
            **self.facts,
        }


def name_windows(rows: NDArray[np.int64], otherwise: str) -> str:
    """Return the first few windows in words, or `otherwise` if there is none."""
    if not len(rows):
        return otherwise
    named = ", ".join(str(r) for r in rows[:NAMED].tolist())
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"windows {named}{more}"
