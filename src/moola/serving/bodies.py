"""Request bodies of `moola serve`: JSON as MLflow takes it, base64, npz and Arrow."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from moola.errors import BadInput
from moola.serving.inputs import flag, from_lists, windows_of

JSON = "application/json"
CSV = "text/csv"
NPZ = "application/x-npz"
ARROW = "application/vnd.apache.arrow.stream"
PARAMS = ("calibrated", "return_set")
_TABLES = ("dataframe_split", "dataframe_records")
_FIELDS = ("inputs", "instances", *_TABLES, "inputs_base64")
_BASE64 = "base64 of little-endian float32 and a shape [n, T, 4]"
_TRUE_FALSE = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Question:
    """Windows as sent, shape (n, T, 4) unless wrong, and what is asked about them."""

    X: NDArray[Any]
    calibrated: bool = True
    return_set: bool = False


def read_question(
    content_type: str, body: bytes, query: Mapping[str, str], *, max_bytes: int
) -> Question:
    """Read a request's body and query.

    Parameters
    ----------
    content_type
        One of the keys of `READERS`; what follows a semicolon does not count.
    body
        The body's bytes.
    query
        ``calibrated`` and ``return_set``, each ``true`` or ``false``; JSON may hold them as well.
    max_bytes
        Most bytes that a compressed body may unpack to.

    Returns
    -------
    Question
        The windows as sent, and what is asked about them.

    Raises
    ------
    BadInput
        If it cannot be read; shape and prices are not looked at yet.
    """
    params: dict[str, Any] = {}
    for key, value in query.items():
        _check_param(key)
        params[key] = _TRUE_FALSE.get(value, value)
    if len(body) == 0:
        raise BadInput("the body is empty", limit="windows")
    X, more = READERS[content_type](body, max_bytes)
    for key in more:
        _check_param(str(key))
    params |= more
    return Question(
        X=X,
        calibrated=flag(params, "calibrated", default=True),
        return_set=flag(params, "return_set", default=False),
    )


def _check_param(key: str) -> None:
    if key not in PARAMS:
        raise BadInput(f"there is no parameter {key[:40]!r}", limit=f"one of {', '.join(PARAMS)}")


def _read_json(body: bytes, max_bytes: int) -> tuple[NDArray[Any], Mapping[str, Any]]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error.msg[:80]}", limit="finite numbers") from None
    if not isinstance(content, dict):
        raise BadInput(f"the JSON is a {type(content).__name__}", limit="an object")
    params = content.pop("params", None) or {}
    if not isinstance(params, dict):
        raise BadInput(f"params is a {type(params).__name__}", limit="an object")
    shape = content.pop("shape", None)
    if len(content) != 1 or next(iter(content)) not in _FIELDS:
        found = ", ".join(repr(key[:20]) for key in list(content)[:3]) or "none"
        raise BadInput(f"the JSON holds {found}", limit=f"just one of {', '.join(_FIELDS)}")
    field, value = content.popitem()
    if field in _TABLES:
        return windows_of(_table(field, value)), params
    if field == "inputs_base64":
        return _from_base64(value, shape), params
    return from_lists(value), params


def _table(field: str, value: Any) -> pd.DataFrame:
    limit = "one row a window, columns named in text"
    try:
        if field == "dataframe_records":
            return pd.DataFrame.from_records(value)
        columns = value["columns"]
        if not all(isinstance(name, str) for name in columns):
            raise BadInput("dataframe_split has a column without a name", limit=limit)
        return pd.DataFrame(value["data"], columns=columns)
    except BadInput:
        raise
    except Exception:  # pandas raises whatever its inner workings stumble over
        raise BadInput(f"{field} is not a table", limit=limit) from None


def _from_base64(text: Any, shape: Any) -> NDArray[np.float32]:
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(text, str) or not whole or len(shape) != 3:
        raise BadInput("inputs_base64 lacks its text or shape", limit=_BASE64)
    try:
        flat = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
        return flat.reshape(shape)
    except (binascii.Error, ValueError):
        raise BadInput(f"inputs_base64 does not fill shape {shape}"[:120], limit=_BASE64) from None


def _read_npz(body: bytes, max_bytes: int) -> tuple[NDArray[Any], Mapping[str, Any]]:
    limit = "np.savez(file, X=windows), without objects"
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if archive.namelist() != ["X.npy"] or unpacked > max_bytes:
                raise BadInput(f"the npz unpacks to {unpacked} bytes", limit=limit)
            with archive.open("X.npy") as member:
                data = member.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise BadInput(f"the npz unpacks to more than {max_bytes} bytes", limit=limit)
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False), {}
    except BadInput:
        raise
    except Exception:  # damaged archives raise a dozen kinds of error
        raise BadInput("the body is not an npz file", limit=limit) from None


def _read_arrow(body: bytes, max_bytes: int) -> tuple[NDArray[Any], Mapping[str, Any]]:
    limit = "an Arrow stream with a column `window` of 4 T float32 values, bar by bar"
    try:
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(body))):
            raise BadInput("the Arrow stream is compressed or has dictionaries", limit=limit)
        with pa.ipc.open_stream(body) as stream:
            column = stream.read_all().column("window").combine_chunks()
        column.validate(full=True)
        flat = column.flatten()
        if not len(column) or column.null_count or flat.null_count:
            raise BadInput(f"the Arrow stream holds {len(column)} windows", limit=limit)
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1, 4), {}
    except BadInput:
        raise
    except Exception:  # damaged streams raise Arrow's errors, OSError, and whatever numpy thinks
        raise BadInput("the body is not an Arrow stream of windows", limit=limit) from None


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Return whether a message of an Arrow stream may unpack to more than it holds.

    pyarrow does not tell, so the flatbuffer is read here: a Message's header is its field 2, a
    RecordBatch's compression its field 3.
    """
    if message.type != "record batch":
        return bool(message.type != "schema")
    data = message.metadata.to_pybytes()

    def number(form: str, at: int) -> int:
        return int(struct.unpack_from(form, data, at)[0])

    def field(table: int, k: int) -> int:
        names = table - number("<i", table)
        offset = number("<H", names + 4 + 2 * k) if number("<H", names) > 4 + 2 * k else 0
        return table + offset if offset else 0

    header = field(number("<I", 0), 2)
    return field(header + number("<I", header), 3) != 0


def _read_csv(body: bytes, max_bytes: int) -> tuple[NDArray[Any], Mapping[str, Any]]:
    try:
        return windows_of(pd.read_csv(io.BytesIO(body))), {}
    except (ValueError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput("the body is not CSV", limit="a header and one row a window") from None


READERS: dict[str, Callable[[bytes, int], tuple[NDArray[Any], Mapping[str, Any]]]] = {
    JSON: _read_json,
    CSV: _read_csv,
    NPZ: _read_npz,
    ARROW: _read_arrow,
}
