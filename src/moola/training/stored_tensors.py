"""The header of a safetensors file, held against the net before anything is allocated for it.

A header can state any number of tensors of any size. So it is read by itself, bounded, and must be
exactly what the net that the configuration makes has: names, shapes, types, one after the other.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import torch

from moola.errors import CheckpointError, shown
from moola.models.controls.stored import Layout

_LENGTH = struct.Struct("<Q")
_MOST_HEADER_BYTES = 1 << 20
_TYPES = {torch.float32: "F32", torch.int64: "I64"}
_BYTES = {"F32": 4, "F64": 8, "I32": 4, "I64": 8}


def layout_of(estimator: Any, num_classes: int) -> Layout:
    """Return type and shape of every tensor of an estimator's net, which takes no memory.

    Parameters
    ----------
    estimator
        An unfitted torch estimator.
    num_classes
        K.

    Returns
    -------
    Layout
        By name.
    """
    with torch.device("meta"):
        net = estimator.build_net(num_classes)
    return layout_of_net(net)


def layout_of_net(net: torch.nn.Module) -> Layout:
    """Return type and shape of every tensor of a net."""
    return {name: (_TYPES[t.dtype], tuple(t.shape)) for name, t in net.state_dict().items()}


def check_header(file: BinaryIO, size: int, layout: Layout) -> None:
    """Check that a safetensors file holds exactly the tensors of a layout.

    Parameters
    ----------
    file
        Open at its first byte; only the header is read.
    size
        Of the whole file, in bytes.
    layout
        What it must hold.

    Raises
    ------
    CheckpointError
        If the header is too large or not readable, names other tensors, types or shapes, or lets
        them overlap, leaves a gap, or ends elsewhere than the file.
    """
    start = file.read(_LENGTH.size)
    length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else _MOST_HEADER_BYTES + 1
    if length > min(_MOST_HEADER_BYTES, size):
        raise _no_weights(f"a header of {length} bytes in a file of {size}", "a header of its own")
    header = _parsed(file.read(length))
    if set(header) != set(layout):
        more, absent = sorted(set(header) - set(layout)), sorted(set(layout) - set(header))
        what = f"{len(absent)} tensors lack and {len(more)} are unknown"
        first = f", {shown((absent or more)[0])} the first"
        raise _no_weights(what + first, "the tensors of the model that config.json states")
    places = []
    for name, (kind, shape) in layout.items():
        begin, end = _place(name, header[name], kind, shape)
        places.append((begin, end))
    position = 0
    for begin, end in sorted(places):
        if begin != position:
            raise _no_weights(f"tensors overlap or leave a gap at byte {position}", "one by one")
        position = end
    if position + _LENGTH.size + length != size:
        raise _no_weights(f"the tensors end at byte {position}", f"the end of a file of {size}")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _no_weights("the header is not JSON", "one object, no name twice")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name twice")
    return entries


def _place(name: str, entry: object, kind: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return where a tensor lies in the data, if it is of the wanted type, shape and size."""
    count = _BYTES[kind]
    for side in shape:
        count *= side
    wanted = {"dtype": kind, "shape": list(shape)}
    header = entry if isinstance(entry, dict) else {}
    offsets = header.get("data_offsets")
    whole = isinstance(offsets, list) and [type(o) for o in offsets] == [int, int]
    if set(header) == {*wanted, "data_offsets"} and isinstance(offsets, list) and whole:
        begin, end = offsets
        stated = {"dtype": header["dtype"], "shape": header["shape"]}
        if stated == wanted and begin >= 0 and end - begin == count:
            return begin, end
    raise _no_weights(f"tensor {name} has another type, shape or size", f"{kind} {list(shape)}")


def _no_weights(what: str, limit: str) -> CheckpointError:
    return CheckpointError(f"model.safetensors: {what}", limit=limit)
