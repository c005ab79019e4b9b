"""Windows in an Arrow stream: read only if nothing in it stands for more than its bytes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moola.errors import BadInput
from moola.serving.inputs import WINDOW_COLUMN

_LIMIT = "an Arrow stream with a column `window` of 4 T float32 values, bar by bar"


def windows_in_stream(body: bytes, *, max_columns: int, max_batches: int) -> NDArray[Any]:
    """Return the windows of an Arrow stream.

    Types without bytes (null, empty structs), compression and dictionaries are refused by the
    schema: a few bytes of them stand for any number of values.

    Parameters
    ----------
    body
        The stream.
    max_columns
        Most columns, those beside ``window`` included.
    max_batches
        Most record batches.

    Returns
    -------
    ndarray
        Windows, shape (n, T, 4); prices and T are still to be checked.

    Raises
    ------
    BadInput
        If it holds something else.
    """
    try:
        first, *batches = _messages(body, max_batches)
        schema = pa.ipc.read_schema(first)
        place = _place_of_windows(schema, max_columns)
        columns = [pa.ipc.read_record_batch(batch, schema).column(place) for batch in batches]
        return _windows(columns[0] if len(columns) == 1 else pa.concat_arrays(columns))
    except BadInput:
        raise
    except Exception:  # damaged streams raise Arrow's errors, OSError, and whatever numpy thinks
        raise BadInput("the body is not an Arrow stream of windows", limit=_LIMIT) from None


def _messages(body: bytes, max_batches: int) -> list[pa.ipc.Message]:
    messages = []
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(body)):
        if number > max_batches:  # the first message is the schema
            raise BadInput(f"the Arrow stream holds {number} batches or more", limit=_LIMIT)
        if message.type != ("record batch" if number else "schema") or _is_compressed(message):
            raise BadInput("the Arrow stream is compressed or has dictionaries", limit=_LIMIT)
        messages.append(message)
    return messages


def _place_of_windows(schema: pa.Schema, max_columns: int) -> int:
    if len(schema) > max_columns:
        raise BadInput(f"the Arrow stream has {len(schema)} columns", limit=_LIMIT)
    place = schema.get_field_index(WINDOW_COLUMN)
    kind = schema.types[place] if place >= 0 else pa.null()
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        raise BadInput("the Arrow stream has no column `window` of lists", limit=_LIMIT)
    if not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise BadInput("the column `window` does not hold numbers", limit=_LIMIT)
    return place


def _windows(column: pa.Array) -> NDArray[Any]:
    column.validate(full=True)
    flat = column.flatten()
    if not len(column) or column.null_count or flat.null_count:
        raise BadInput(f"the Arrow stream holds {len(column)} windows", limit=_LIMIT)
    if len(np.unique(np.diff(_offsets(column)))) != 1:
        raise BadInput("the windows differ in their number of bars", limit=_LIMIT)
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1, 4)


def _offsets(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        return np.arange(2)  # all alike, by their type
    return np.asarray(column.offsets)


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Return whether a message of an Arrow stream may unpack to more than it holds.

    pyarrow does not tell, so the flatbuffer is read here: a Message's header is its field 2, a
    RecordBatch's compression its field 3.
    """
    if message.type == "schema":
        return False
    data = message.metadata.to_pybytes()

    def number(form: str, at: int) -> int:
        return int(struct.unpack_from(form, data, at)[0])

    def field(table: int, k: int) -> int:
        names = table - number("<i", table)
        offset = number("<H", names + 4 + 2 * k) if number("<H", names) > 4 + 2 * k else 0
        return table + offset if offset else 0

    header = field(number("<I", 0), 2)
    return field(header + number("<I", header), 3) != 0
