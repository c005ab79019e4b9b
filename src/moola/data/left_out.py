"""Which windows a recipe leaves out, counted under the reason that is named first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPEATED, GAPS, OUTSIDE = "repeated bars", "gaps", "outside start and end"
_FIELDS = {
    REPEATED: "exclude_repeated: false",
    GAPS: "cross_gaps: true (or a larger gap_bars)",
    OUTSIDE: "start and end",
}
_WARNED_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How many windows could be, and how many of them are left out, by reason.

    A window with several reasons counts under the first of them: outside, repeated, gaps.
    """

    possible: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_left_out(self) -> int:
        """Windows left out, for any reason."""
        return sum(self.reasons.values())

    @property
    def words(self) -> str:
        """The count in words: ``5,005 of 5,130 windows; left out: 93 repeated bars, 32 gaps``."""
        share = f"{self.possible - self.num_left_out:,} of {self.possible:,} windows"
        return f"{share}; left out: {self.reasons_in_words}" if self.num_left_out else share

    @property
    def reasons_in_words(self) -> str:
        """Reasons and their counts, the first by itself."""
        return ", ".join(f"{n:,} {reason}" for reason, n in self.reasons.items() if n)

    @property
    def remedy(self) -> str:
        """Which fields of the recipe would keep the windows that are left out."""
        named = [_FIELDS[r] for r, n in sorted(self.reasons.items(), key=lambda x: -x[1]) if n]
        return f"Fields of the recipe that change it: {'; '.join(named)}"

    @property
    def warning(self) -> str | None:
        """A warning where more than a tenth is left out, else None."""
        if self.num_left_out <= _WARNED_SHARE * self.possible:
            return None
        return f"{self.num_left_out / self.possible:.0%} of the windows are left out. {self.remedy}"

    def __add__(self, other: LeftOut) -> LeftOut:
        names = {**self.reasons, **other.reasons}
        reasons = {r: self.reasons.get(r, 0) + other.reasons.get(r, 0) for r in names}
        return LeftOut(possible=self.possible + other.possible, reasons=reasons)

    def to_dict(self) -> dict[str, int]:
        """Return plain values: ``possible``, and each reason that left a window out."""
        return {"possible": self.possible, **{r: n for r, n in self.reasons.items() if n}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LeftOut:
        """Read what `to_dict` returns."""
        reasons = {r: int(values[r]) for r in (OUTSIDE, REPEATED, GAPS) if r in values}
        return cls(possible=int(values["possible"]), reasons=reasons)
