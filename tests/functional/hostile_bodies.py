"""Bodies that are made to cost much: by size, by count, by depth, by what few bytes stand for.

`make(num_bytes)` returns one of about that size, or a small one that claims to be large.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from moola.serving.bodies import ARROW, CSV, JSON, NPZ
from moola.serving.inputs import window_columns

_NAMES = window_columns(105)
_HEADER = ",".join(_NAMES).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class HostileBody:
    """A kind of body that no model can answer."""

    name: str
    content_type: str
    make: Callable[[int], bytes]


def _filled(begin: bytes, unit: bytes, end: bytes) -> Callable[[int], bytes]:
    """Return the maker of bodies that hold one unit over and over."""
    return lambda n: begin + unit * ((n - len(begin) - len(end)) // len(unit)) + end


def _counted(begin: bytes, unit: bytes, end: bytes) -> Callable[[int], bytes]:
    """Return the maker of bodies whose units each hold another number."""
    return lambda n: begin + b",".join(unit % k for k in range(n // (len(unit) + 6))) + end


def _stream(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _windows_of(values: pa.Array) -> bytes:
    """Return a stream of windows of 420 values that take no bytes."""
    return _stream(pa.table({"window": pa.FixedSizeListArray.from_arrays(values, 420)}))


def _empty_batches(num_bytes: int) -> bytes:
    sink = pa.BufferOutputStream()
    schema = pa.schema({"window": pa.list_(pa.float32(), 420)})
    batch = pa.record_batch([pa.array([], schema.types[0])], schema=schema)
    with pa.ipc.new_stream(sink, schema) as stream:
        while sink.tell() < num_bytes:
            stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _wide_stream(num_bytes: int) -> bytes:
    return _stream(pa.table({f"c{k}": pa.array([1.0]) for k in range(num_bytes // 300)}))


def _sizeless(num_bytes: int) -> bytes:
    kind, no_values = pa.list_(pa.float32(), 0), pa.array([], pa.float32())
    windows = pa.FixedSizeListArray.from_buffers(kind, 2 * 10**9, [None], children=[no_values])
    return _stream(pa.table({"window": windows}))


def _ragged_stream(num_bytes: int) -> bytes:
    rows = [[1.0] * 419, [1.0] * 421] * max(1, num_bytes // 3400)
    return _stream(pa.table({"window": pa.array(rows, pa.list_(pa.float32()))}))


def _npy(header: dict[str, object], data: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def _zip(members: Iterator[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def _many_members(num_bytes: int) -> bytes:
    return _zip((f"{k:06}.npy", b"") for k in range(num_bytes // 120))


def _claimed(num_bytes: int) -> bytes:
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 105, 4)}
    return _zip(iter([("X.npy", _npy(header))]))


def _other_method(num_bytes: int) -> bytes:
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_bytes // 1680, 105, 4)}
    content = _npy(header, bytes(num_bytes // 1680 * 1680))
    return _zip(iter([("X.npy", content)]), zipfile.ZIP_LZMA)


def _split(**parts: object) -> Callable[[int], bytes]:
    return lambda n: json.dumps({"dataframe_split": parts}).encode()


def _beyond_64_bits(num_bytes: int) -> bytes:
    return b'{"inputs_base64":"","shape":[18446744073709551615,1,4]}'


def _nulls(num_bytes: int) -> bytes:
    return _windows_of(pa.nulls(21 * 10**8))


def _objects(num_bytes: int) -> bytes:
    return _windows_of(pa.StructArray.from_buffers(pa.struct([]), 21 * 10**8, [None]))


_SPLIT, _DATA = b'{"dataframe_split":{"columns":[', b'"window"],"data":['
_RECORDS, _BASE64 = b'{"dataframe_records":[', b'{"shape":[1,1,4],"inputs_base64":"'
_PARAMS = b'{"inputs":[[[1,1,1,1]]],"params":{'
_MAKERS: dict[str, dict[str, Callable[[int], bytes]]] = {
    CSV: {
        "commas": lambda n: b"," * n,
        "one name over and over": _filled(b"a", b",a", b""),
        "a line without an end": lambda n: b"a" * n,
        "quotes": lambda n: b'"' * n,
        "empty lines": lambda n: b"\n" * n,
        "empty lines below names": _filled(_HEADER, b"\r\n", b""),
        "an open quote": _filled(_HEADER + b'"', b"1\n", b""),
        "rows of any length": _filled(_HEADER, b"1,2\n3\n", b""),
        "rows of one value": _filled(_HEADER, b"1\n", b""),
        "a number of all digits": _filled(_HEADER, b"9", b""),
        "zero bytes": lambda n: b"\0" * n,
        "not UTF-8": _filled(b"", b"\xff\xfe", b""),
    },
    JSON: {
        "split, names": _counted(_SPLIT, b'"c%d"', b'],"data":[]}}'),
        "split, one name over and over": _filled(_SPLIT + b'"a"', b',"a"', b'],"data":[[1]]}}'),
        "split, rows of one value": _filled(_SPLIT + _DATA + b"[1]", b",[1]", b"]}}"),
        "split, one row": _filled(_SPLIT + _DATA + b"[[1", b",1", b"]]]}}"),
        "split, names without rows": _split(columns=_NAMES, data=[]),
        "split, rows of text": _split(columns=_NAMES[:4], data=["1111"]),
        "split, text for rows": _split(columns=_NAMES, data="x" * 420),
        "records, names": _counted(_RECORDS + b"{", b'"c%d":1', b"}]}"),
        "records, no two alike": _counted(_RECORDS, b'{"c%d":1}', b"]}"),
        "records, empty": _filled(_RECORDS + b"{}", b",{}", b"]}"),
        "parameters": _counted(_PARAMS, b'"c%d":1', b"}}"),
        "fields": _counted(b"{", b'"c%d":1', b"}"),
        "one field over and over": _filled(b'{"inputs":1', b',"inputs":1', b"}"),
        "inputs by name": _counted(b'{"instances":{', b'"c%d":[1]', b"}}"),
        "deep lists": lambda n: b'{"inputs":' + b"[" * n,
        "deep objects": lambda n: b'{"a":' * (n // 5),
        "empty lists": _filled(b'{"inputs":[[]', b",[]", b"]}"),
        "numbers": _filled(b'{"inputs":[1', b",1", b"]}"),
        "one window of many bars": _filled(b'{"inputs":[[[1,1,1,1]', b",[1,1,1,1]", b"]]}"),
        "an integer of all digits": _filled(b'{"inputs":[', b"9", b"]}"),
        "a fraction of all digits": _filled(b'{"inputs":[0.', b"9", b"]}"),
        "an exponent of all digits": _filled(b'{"inputs":[1e-', b"9", b"]}"),
        "spaces": lambda n: b" " * n,
        "escapes": _filled(b'{"inputs":"', b"\\ud83d\\ude00", b'"}'),
        "half an escape": _filled(b'{"inputs":"', b"\\ud83d", b'"}'),
        "base64 of another shape": _filled(_BASE64, b"A", b'"}'),
        "base64 that is none": _filled(_BASE64, b"=", b'"}'),
        "a shape of many sizes": _filled(b'{"inputs_base64":"AAAA","shape":[1', b",1", b"]}"),
        "a shape beyond 64 bits": _beyond_64_bits,
    },
    NPZ: {
        "members": _many_members,
        "beginnings of members": lambda n: b"PK\1\2" * (n // 4),
        "a claimed shape": _claimed,
        "another compression": _other_method,
    },
    ARROW: {
        "columns": _wide_stream,
        "batches without rows": _empty_batches,
        "two billion nulls": _nulls,
        "two billion objects": _objects,
        "two billion lists of nothing": _sizeless,
        "rows of two lengths": _ragged_stream,
        "0xff": lambda n: b"\xff" * n,
    },
}
_SHORT = {CSV: "CSV", JSON: "JSON", NPZ: "npz", ARROW: "Arrow"}
HOSTILE_BODIES = tuple(
    HostileBody(name=f"{_SHORT[content_type]}: {name}", content_type=content_type, make=make)
    for content_type, makers in _MAKERS.items()
    for name, make in makers.items()
)
