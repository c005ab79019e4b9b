"""How a file is to be read and mended: what the user may say, each of it checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moola.data.ingest.time_columns import TimeOptions
from moola.errors import ConfigError
from moola.times import EPOCH_UNITS, epoch_unit_names

REPAIRS = {
    "sort": "put rows into the order of time",
    "drop-duplicates": "of rows with the same time and prices keep the one that comes first",
    "drop-missing": "leave out rows without a time or with a price that is not a positive number",
    "drop-violations": "leave out bars whose high or low does not enclose open and close",
    "widen": "move high and low of such bars out to the open and close",
}
ACCEPTS = {
    "early": "bars before 1971 that numbers give",
    "sub-second": "a usual step below one second that numbers give",
    "odd-steps": "steps of which no two agree",
    "hole": "a stretch of more than a year without bars",
    "future": "bars that open later than now",
    "partial": "a last bar that opens off the grid of all others",
    "repairs": "repairs, sorting aside, that touch more than 2 % of the rows and more than five",
}
MOST_REPAIRED = 0.02  # of the rows, unless a word says that it is meant


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """How a file is to be read and mended.

    Attributes
    ----------
    timezone
        Zone of times that name none; None: UTC, and the report says so.
    time_format
        A ``strptime`` format, where the form of the times is not known.
    epoch_unit
        What times that are numbers count: ``s``, ``ms``, ``us``, ``ns``, ``days``, ``excel`` or
        ``matlab``; None: told by their size.
    time_column
        Column of the opening time, or two: date and time.
    columns
        Names of the file's columns, in their order.
    symbol
        Which instrument, where the file holds several.
    where
        Values by column: only rows that hold them are read.
    decimal, thousands
        How numbers in texts are written.
    repairs
        Names from `REPAIRS`.
    accept
        Names from `ACCEPTS`: what looks absurd and is meant.
    jump_mad
        A close-to-close change of more than this many MADs is reported as a jump.
    """

    timezone: str | None = None
    time_format: str | None = None
    epoch_unit: str | None = None
    time_column: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    symbol: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    decimal: str | None = None
    thousands: str | None = None
    repairs: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    jump_mad: float = 30.0

    def __post_init__(self) -> None:
        for repair in self.repairs:
            if repair not in REPAIRS:
                raise ConfigError(f"repair is {repair!r}", limit=f"one of {', '.join(REPAIRS)}")
        for name in self.accept:
            if name not in ACCEPTS:
                raise ConfigError(f"accept is {name!r}", limit=f"one of {', '.join(ACCEPTS)}")
        if {"drop-violations", "widen"} <= set(self.repairs):
            raise ConfigError("repairs are drop-violations and widen", limit="one of the two")
        if self.epoch_unit is not None and self.epoch_unit not in EPOCH_UNITS:
            raise ConfigError(
                f"epoch unit is {self.epoch_unit!r}", limit=f"one of {epoch_unit_names()}"
            )
        signs = {".", ",", "'", " ", "_"}
        if self.decimal not in (None, ".", ",") or (self.thousands or ".") not in signs:
            raise ConfigError(
                f"decimal is {self.decimal!r} and thousands {self.thousands!r}",
                limit="a point or a comma; thousands also ' _ or a space",
            )
        if self.thousands is not None and self.thousands == (self.decimal or "."):
            raise ConfigError(
                f"thousands is {self.thousands!r}, and so is decimal", remedy="Give --decimal too"
            )
        if not self.jump_mad > 0:
            raise ConfigError(f"jump_mad is {self.jump_mad!r}", limit="a number above 0")

    @property
    def times(self) -> TimeOptions:
        """What is said of the times."""
        return TimeOptions(
            column=self.time_column,
            time_format=self.time_format,
            epoch_unit=self.epoch_unit,
            zone=self.timezone,
        )
