"""Volume as the sources write it: never a reason to refuse a file, null where it cannot be read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_PLAIN = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def as_volume(
    values: pa.Array, *, decimal: str | None = None, thousands: str | None = None
) -> tuple[pa.Array, int]:
    """Return a volume column as float64, and how many values that are there were not understood.

    Understood are numbers of any size, ``1,200`` (groups of three digits) and ``1.2K`` (also M, B,
    T). What is not, ``-`` for example, becomes null.
    """
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _finite(values.cast(pa.float64(), safe=False)), 0
    if pa.types.is_decimal(kind):
        values = values.cast(pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return pa.nulls(len(values), pa.float64()), len(values) - values.null_count
    text = pc.utf8_upper(pc.utf8_trim_whitespace(values.cast(pa.string())))
    if decimal == ",":
        group = thousands or "."
        text = pc.replace_substring(pc.replace_substring(text, group, ""), ",", ".")
    elif thousands not in (None, ","):
        text = pc.replace_substring(text, thousands, "")
    grouped = pc.match_substring_regex(text, r"^[+-]?\d{1,3}(,\d{3})+(\.\d*)?[KMBT]?$")
    text = pc.if_else(grouped, pc.replace_substring(text, ",", ""), text)
    last = pc.utf8_slice_codeunits(text, -1)
    factor = np.ones(len(text))
    for suffix, times in _SUFFIXES.items():
        mine = pc.equal(last, suffix).fill_null(False)
        factor[np.asarray(mine)] = times
        text = pc.if_else(mine, pc.utf8_trim_whitespace(pc.utf8_rtrim(text, suffix)), text)
    plain = pc.match_substring_regex(text, _PLAIN).fill_null(False)
    number = pc.if_else(plain, text, pa.scalar(None, pa.string())).cast(pa.float64())
    unread = int(np.asarray(pc.and_(values.is_valid(), pc.invert(plain))).sum())
    if (factor != 1).any():
        number = pc.multiply(number, pa.array(factor))
    return _finite(number), unread


def _finite(number: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
