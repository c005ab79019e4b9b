"""Columns of texts that vary among the rows of a file: what may tell two bars of one time apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lgamma, log

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moola.data.ingest.columns import Format
from moola.data.ingest.files import BarFile
from moola.data.ingest.rows import as_text
from moola.data.ingest.time_columns import joined

_MAX_VALUES = 200
_CHANCE = 0.05


@dataclass
class Values:
    """Values of one column, and whether the rows of each of them are in the order of time.

    `by_chance` is how likely that is of rows in no order.
    """

    seen: set[str] = field(default_factory=set)
    in_order: bool = True
    rows: dict[str, int] = field(default_factory=dict)
    turned: dict[str, int] = field(default_factory=dict)

    @property
    def by_chance(self) -> float:
        """Probability that the rows of every value are in order, up or down, by chance."""
        return float(np.exp(sum(min(0.0, log(2) - lgamma(n + 1)) for n in self.rows.values())))

    @property
    def are_series(self) -> bool:
        """Whether the values tell several series apart, each of them in order."""
        return self.in_order and self.by_chance < _CHANCE


def varying_texts(file: BarFile, form: Format) -> dict[str, Values]:
    """Return the columns that hold a few different texts, flags or small numbers, by name.

    Reads the file once more: this is asked only where it is about to be refused, or sorted.
    """
    used = {*form.time, *form.prices, form.volume}
    others = [n for n in file.names if n and n not in used and file.names.count(n) == 1]
    values = {n: Values() for n in others}
    if not others:
        return {}
    for batch in file.batches([*form.time, *others], []):
        time = joined([batch[c] for c in form.time])
        for name in list(values):
            if not _may_tell(batch[name].type):
                del values[name]
                continue
            _note(values[name], as_text(batch[name]).fill_null(""), time)
            if len(values[name].seen) > _MAX_VALUES:
                del values[name]
    return {n: v for n, v in values.items() if len(v.seen) > 1}


def _may_tell(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _note(values: Values, texts: pa.Array, time: pa.Array) -> None:
    values.seen.update(str(v) for v in pc.unique(texts).to_pylist())
    if len(values.seen) > _MAX_VALUES:
        return
    for value in list(values.seen):
        mine = time.filter(pc.equal(texts, value))
        values.rows[value] = values.rows.get(value, 0) + len(mine)
        if not len(mine):
            continue
        _, rank = np.unique(
            np.asarray(mine.to_pylist(), dtype=object).astype(str), return_inverse=True
        )
        turns = np.sign(np.diff(rank))
        direction = {int(t) for t in turns if t}
        previous = values.turned.get(value)
        if previous is not None:
            direction.add(previous)
        if len(direction) > 1:
            values.in_order = False
        elif direction:
            values.turned[value] = direction.pop()
