"""Requests that cannot be answered, and what `mlflow models serve` makes of them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from serve_kit import as_json, npz, random_windows

from moola.serving.bodies import ARROW, CSV, JSON, NPZ

_ONE = random_windows(1)


@dataclass(frozen=True, kw_only=True)
class BadRequest:
    """A request, the status of `moola serve`, and what of MLflow's answer is out of our hands."""

    name: str
    status: int = 400
    body: bytes
    content_type: str | None = JSON
    method: str = "POST"
    mlflow: str = ""


def _with(value: object) -> bytes:
    """Return the JSON of one window whose 41st bar opens with a value of any kind."""
    windows = _ONE.tolist()
    windows[0][40][0] = "here"
    return json.dumps({"inputs": windows}).replace('"here"', str(value)).encode()


def _swapped() -> bytes:
    X = _ONE.copy()
    X[0, 7, [1, 2]] = X[0, 7, [2, 1]]
    return as_json(X)


def _bomb() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, X=np.zeros((50_000, 105, 4), dtype=np.float32))
    return buffer.getvalue()


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


def _compressed() -> bytes:
    sink, table = pa.BufferOutputStream(), pa.table({"window": [[1.0] * 420] * 5000})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


_RAGGED = _ONE.tolist()
_RAGGED[0][3] = _RAGGED[0][3][:3]
_NESTED = b'{"inputs": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
_MANY = _text({"inputs": [[[1, 1, 1, 1]]] * 100_001})

# What MLflow does before the model is asked, or after it refused:
ECHO, WORDY, IGNORED = "echoes the input", "says more than 200 characters", "ignores it"
TRACEBACK, CRASH = "shows a traceback", "fails with 500"

BAD_REQUESTS = (
    BadRequest(name="empty body", body=b""),
    BadRequest(name="not JSON", body=b"open,high,low,close;" * 50, mlflow=ECHO),
    BadRequest(name="not UTF-8", body=b'{"inputs": "\xff\xfe' + b"\xff" * 300 + b'"}', mlflow=ECHO),
    BadRequest(name="cut off", body=as_json(_ONE)[:4000], mlflow=ECHO),
    BadRequest(name="a JSON list", body=_text(_ONE.tolist())),
    BadRequest(name="a JSON number", body=b"7"),
    BadRequest(name="unknown field only", body=_text({"windows": _ONE.tolist()}), mlflow=WORDY),
    BadRequest(name="two fields", body=_text({"inputs": [1], "instances": [1]}), mlflow=WORDY),
    BadRequest(name="unknown field beside", body=as_json(_ONE, colour="red"), mlflow=IGNORED),
    BadRequest(name="empty batch", body=_text({"inputs": []})),
    BadRequest(name="104 bars", body=as_json(_ONE[:, :104])),
    BadRequest(name="3 prices a bar", body=as_json(_ONE[:, :, :3])),
    BadRequest(name="one window, not a batch", body=as_json(_ONE[0])),
    BadRequest(name="ragged", body=_text({"inputs": _RAGGED})),
    BadRequest(name="NaN", body=_with("NaN")),
    BadRequest(name="null", body=_with("null")),
    BadRequest(name="1e999", body=_with("1e999")),
    BadRequest(name="a price of 0", body=_with(0)),
    BadRequest(name="a negative price", body=_with(-1.5)),
    BadRequest(name="high below low", body=_swapped()),
    BadRequest(name="numbers as text", body=_text({"inputs": _ONE.astype(str).tolist()})),
    BadRequest(name="one number as text", body=_with('"100.5"')),
    BadRequest(name="an object", body=_text({"inputs": {"open": [1.0], "close": [1.0]}})),
    BadRequest(name="nested 20,000 deep", body=_NESTED, mlflow=CRASH),
    BadRequest(name="100,001 windows", body=_MANY, status=413),
    BadRequest(name="unknown parameter", body=as_json(_ONE, params={"hot": 1}), mlflow=IGNORED),
    BadRequest(
        name="parameter of wrong type",
        body=as_json(_ONE, params={"calibrated": "yes"}),
        mlflow=ECHO,
    ),
    BadRequest(name="table without columns", body=_text({"dataframe_split": {"data": [[1]]}})),
    BadRequest(
        name="columns that are lists",
        body=_text({"dataframe_split": {"columns": [[[None]], []], "data": []}}),
    ),
    BadRequest(name="CSV of other columns", body=b"a,b\n1,2\n", content_type=CSV),
    BadRequest(name="broken CSV", body=b'a,b\n"1,2\n', content_type=CSV, mlflow=TRACEBACK),
    BadRequest(name="body of 3 MB", body=b" " * 3_000_000, status=413, mlflow=ECHO),
    BadRequest(
        name="no content type", body=as_json(_ONE), content_type=None, status=415, mlflow=CRASH
    ),
    BadRequest(name="another content type", body=b"x", content_type="text/plain", status=415),
    BadRequest(
        name="another charset",
        body=as_json(_ONE),
        content_type=f"{JSON}; charset=latin-1",
        status=415,
    ),
    BadRequest(name="broken npz", body=npz(_ONE)[:200], content_type=NPZ),
    BadRequest(name="npz that unpacks to 84 MB", body=_bomb(), content_type=NPZ),
    BadRequest(name="broken Arrow", body=b"ARROW1" * 20, content_type=ARROW),
    BadRequest(name="compressed Arrow", body=_compressed(), content_type=ARROW),
    BadRequest(name="GET", body=b"", content_type=None, method="GET", status=405),
)  # fmt: skip
