"""Request bodies of `moola serve`: JSON as MLflow takes it, CSV, base64, npz and Arrow.

Whatever is sent, time and memory grow with its bytes and no faster. What a body may hold follows
from the model: so many windows of so many bars of 4 prices. What can be counted on the bytes is
counted there, before anything is built of them.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from moola.data.windows import check_windows
from moola.errors import BadInput
from moola.serving.arrow_stream import windows_in_stream
from moola.serving.inputs import column_order, flag, from_lists, from_rows

JSON = "application/json"
CSV = "text/csv"
NPZ = "application/x-npz"
ARROW = "application/vnd.apache.arrow.stream"
PARAMS = ("calibrated", "return_set")
_TABLES = ("dataframe_split", "dataframe_records")
_FIELDS = ("inputs", "instances", *_TABLES, "inputs_base64")
_SPLIT = {"columns", "data", "index"}
_TABLE = "one row a window, columns named in text"
_BASE64 = "base64 of little-endian float32 and a shape [n, T, 4]"
_CSV = "a header and one row a window"
_TRUE_FALSE = {"true": True, "false": False}
_BESIDE = 1000  # brackets and commas that a body may hold beside those of its windows
_NAME_BYTES = 32  # the longest column name has 12, quotes and spaces may be around it
_MEMBERS = 16  # an npz has one; its bytes may look like the start of another by chance


class TooLarge(BadInput):
    """A body holds more than the server takes in one request."""


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """What a body may hold.

    Attributes
    ----------
    window_bars
        T, the bars that the model takes.
    max_windows
        Most windows of a request.
    max_bytes
        Most bytes that a compressed body may unpack to.
    """

    window_bars: int
    max_windows: int
    max_bytes: int

    @property
    def max_columns(self) -> int:
        """Columns of the widest table: a price each."""
        return 4 * self.window_bars


@dataclass(frozen=True, kw_only=True)
class Question:
    """Checked windows, shape (n, T, 4), and what is asked about them."""

    X: NDArray[np.float32]
    calibrated: bool = True
    return_set: bool = False


def read_question(
    content_type: str, body: bytes, query: Mapping[str, str], limits: BodyLimits
) -> Question:
    """Read a request's body and query.

    Parameters
    ----------
    content_type
        One of the keys of `READERS`.
    body
        The body's bytes.
    query
        ``calibrated`` and ``return_set``, each ``true`` or ``false``; JSON may hold them as well.
    limits
        What the body may hold.

    Returns
    -------
    Question
        The windows, checked, and what is asked about them.

    Raises
    ------
    TooLarge
        If it holds more than it may.
    BadInput
        If it cannot be read, or windows or prices cannot be used.
    """
    params: dict[str, Any] = {}
    for key, value in query.items():
        _check_param(key)
        params[key] = _TRUE_FALSE.get(value, value)
    if len(body) == 0:
        raise BadInput("the body is empty", limit="windows")
    X, more = READERS[content_type](body, limits)
    for key in more:
        _check_param(str(key))
    params |= more
    if X.ndim and len(X) > limits.max_windows:
        raise TooLarge(f"the batch holds {len(X)} windows", limit=f"at most {limits.max_windows}")
    return Question(
        X=check_windows(X, window_bars=limits.window_bars),
        calibrated=flag(params, "calibrated", default=True),
        return_set=flag(params, "return_set", default=False),
    )


def _check_param(key: str) -> None:
    if key not in PARAMS:
        raise BadInput(f"there is no parameter {key[:40]!r}", limit=f"one of {', '.join(PARAMS)}")


def _check_count(body: bytes, mark: bytes, most: int, what: str) -> None:
    """Refuse a body with more marks than the largest request needs; `what` they part or begin."""
    if (count := body.count(mark)) > most + _BESIDE:
        raise TooLarge(f"the body holds {count} {what}", limit=f"at most {most} in one request")


def _check_values(body: bytes, limits: BodyLimits) -> None:
    # Two more a window: the brackets around it, or what a table's index adds.
    _check_count(body, b",", limits.max_windows * (limits.max_columns + 2), "values")


def _check_width(num_columns: int, limits: BodyLimits) -> None:
    if num_columns > limits.max_columns:
        raise BadInput(
            f"the table has {num_columns} columns",
            limit=f"at most {limits.max_columns}, 4 prices of {limits.window_bars} bars",
        )


def _read_json(body: bytes, limits: BodyLimits) -> tuple[NDArray[Any], Mapping[str, Any]]:
    _check_values(body, limits)
    _check_count(body, b"[", limits.max_windows * (limits.window_bars + 2), "lists")
    _check_count(body, b"{", limits.max_windows, "objects")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "memory" in error.msg:  # its way to say that its buffer could not be had
            raise MemoryError from None
        raise BadInput(f"the body is not JSON: {error.msg[:80]}", limit="finite numbers") from None
    if not isinstance(content, dict):
        raise BadInput(f"the JSON is a {type(content).__name__}", limit="an object")
    params = content.pop("params", None) or {}
    if not isinstance(params, dict):
        raise BadInput(f"params is a {type(params).__name__}", limit="an object")
    shape = content.pop("shape", None)
    if len(content) != 1 or next(iter(content)) not in _FIELDS:
        keys = ", ".join(repr(key[:20]) for key in list(content)[:3]) or "none"
        raise BadInput(f"the JSON holds {keys}", limit=f"just one of {', '.join(_FIELDS)}")
    field, value = content.popitem()
    if field in _TABLES:
        return _from_table(field, value, limits), params
    if field == "inputs_base64":
        return _from_base64(value, shape), params
    return from_lists(value), params


def _from_table(field: str, value: Any, limits: BodyLimits) -> NDArray[np.float64]:
    names, rows = _split(value) if field == "dataframe_split" else _records(value)
    if any(not isinstance(name, str) for name in names):
        raise BadInput(f"{field} has a column without a name", limit=_TABLE)
    _check_width(len(names), limits)
    return from_rows(names, rows)


def _split(value: Any) -> tuple[list[Any], list[Any]]:
    if isinstance(value, dict) and {"columns", "data"} <= value.keys() <= _SPLIT:
        names, rows = value["columns"], value["data"]
        if isinstance(names, list) and isinstance(rows, list):
            return names, rows
    raise BadInput("dataframe_split is not a table", limit=_TABLE)


def _records(value: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise BadInput("dataframe_records is not a table", limit=_TABLE)
    names = list(value[0])
    same = value[0].keys()
    if any(not isinstance(row, dict) or row.keys() != same for row in value):
        raise BadInput("the records differ in their columns", limit=_TABLE)
    return names, [[row[name] for name in names] for row in value]


def _from_base64(text: Any, shape: Any) -> NDArray[np.float32]:
    whole = isinstance(shape, list) and len(shape) == 3
    if not isinstance(text, str) or not whole or any(type(n) is not int or n < 0 for n in shape):
        raise BadInput("inputs_base64 lacks its text or shape", limit=_BASE64)
    try:
        flat = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
        return flat.reshape(shape)
    except (binascii.Error, ValueError, OverflowError):
        raise BadInput(f"inputs_base64 does not fill shape {shape}"[:120], limit=_BASE64) from None


def _read_npz(body: bytes, limits: BodyLimits) -> tuple[NDArray[Any], Mapping[str, Any]]:
    limit = "np.savez(file, X=windows), without objects"
    try:
        if body.count(b"PK\x01\x02") > _MEMBERS:
            raise BadInput("the npz holds more than X", limit=limit)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if archive.namelist() != ["X.npy"] or unpacked > limits.max_bytes:
                raise BadInput(f"the npz unpacks to {unpacked} bytes", limit=limit)
            if archive.infolist()[0].compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise BadInput("the npz is compressed by another method than deflate", limit=limit)
            with archive.open("X.npy") as member:
                data = member.read(limits.max_bytes + 1)
        if len(data) > limits.max_bytes:
            raise BadInput(f"the npz unpacks to more than {limits.max_bytes} bytes", limit=limit)
        return _from_npy(data), {}
    except BadInput:
        raise
    except Exception:  # damaged archives raise a dozen kinds of error
        raise BadInput("the body is not an npz file", limit=limit) from None


def _from_npy(data: bytes) -> NDArray[Any]:
    """Return the array of an npy file; unlike `np.load`, memory for it is not taken on its word."""
    file = io.BytesIO(data)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file)
    if dtype.kind not in "fiu":
        raise ValueError(dtype)
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_arrow(body: bytes, limits: BodyLimits) -> tuple[NDArray[Any], Mapping[str, Any]]:
    most = {"max_columns": limits.max_columns, "max_batches": limits.max_windows}
    return windows_in_stream(body, **most), {}


def _read_csv(body: bytes, limits: BodyLimits) -> tuple[NDArray[Any], Mapping[str, Any]]:
    _check_values(body, limits)
    body = body.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    end = min((at for at in (body.find(b"\n"), body.find(b"\r")) if at >= 0), default=len(body))
    _check_width(body.count(b",", 0, end) + 1, limits)
    if end > limits.max_columns * _NAME_BYTES:
        raise BadInput(f"the first line has {end} bytes", limit=f"the names of columns; {_CSV}")
    try:
        names = next(csv.reader([body[:end].decode()]), [])
    except (ValueError, csv.Error):
        raise BadInput("the body is not CSV", limit=_CSV) from None
    order = column_order(names)
    if not body[end:].strip():
        raise BadInput("the batch holds no window", limit="at least 1")
    table = _csv_rows(names, body[end:])
    prices = np.stack([table.column(place).to_numpy() for place in order], axis=1)
    return prices.reshape(table.num_rows, -1, 4), {}


def _csv_rows(names: list[str], rows: bytes) -> pa.Table:
    reading = pa.csv.ReadOptions(use_threads=False, block_size=len(rows) + 1, column_names=names)
    numbers = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()))
    try:
        return pa.csv.read_csv(pa.py_buffer(rows), read_options=reading, convert_options=numbers)
    except pa.ArrowInvalid:
        raise BadInput("the rows are not numbers, one a column", limit=_CSV) from None


READERS: dict[str, Callable[[bytes, BodyLimits], tuple[NDArray[Any], Mapping[str, Any]]]] = {
    JSON: _read_json,
    CSV: _read_csv,
    NPZ: _read_npz,
    ARROW: _read_arrow,
}
