"""Columns of texts that vary among the rows of a file: what may tell two bars of one time apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moola.data.ingest.columns import Format
from moola.data.ingest.files import BarFile
from moola.data.ingest.rows import as_text
from moola.data.ingest.time_columns import joined

_MAX_VALUES = 200


@dataclass
class Values:
    """Values of one column, and whether the rows of each of them are in the order of time."""

    seen: set[str] = field(default_factory=set)
    ordered: bool = True
    last: dict[str, object] = field(default_factory=dict)
    turned: dict[str, int] = field(default_factory=dict)


def varying_texts(file: BarFile, form: Format) -> dict[str, Values]:
    """Return the columns that hold a few different texts, flags or small numbers, by name.

    Reads the file once more: this is asked only where it is about to be refused, or sorted.
    """
    taken = {*form.time, *form.prices, form.volume}
    others = [n for n in file.names if n not in taken and file.names.count(n) == 1]
    found = {n: Values() for n in others}
    if not others:
        return {}
    for batch in file.batches([*form.time, *others], []):
        time = joined([batch[c] for c in form.time])
        for name in list(found):
            if not _may_tell(batch[name].type):
                del found[name]
                continue
            _note(found[name], as_text(batch[name]).fill_null(""), time)
            if len(found[name].seen) > _MAX_VALUES:
                del found[name]
    return {n: v for n, v in found.items() if len(v.seen) > 1}


def _may_tell(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _note(values: Values, texts: pa.Array, time: pa.Array) -> None:
    values.seen.update(str(v) for v in pc.unique(texts).to_pylist())
    if len(values.seen) > _MAX_VALUES:
        return
    for value in list(values.seen):
        mine = time.filter(pc.equal(texts, value))
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
            values.ordered = False
        elif direction:
            values.turned[value] = direction.pop()
