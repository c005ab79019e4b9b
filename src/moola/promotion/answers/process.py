"""What the process of a version does: load it as MLflow does, and answer a table of features.

Nothing it writes is believed: `moola.promotion.answers.ask` checks every byte.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from moola.errors import BadInput, MoolaError, one_line

_BATCH_ROWS = 65_536
_MOST_CLASSES = 1000
_LONGEST_TEXT = 200


def main(asked: Mapping[str, Any]) -> None:
    """Answer the table and write answers and facts to the two file descriptors asked for."""
    warnings.filterwarnings("ignore")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        facts = _answer(asked)
    except MoolaError as error:
        facts = {"error": error.problem}
    except MemoryError as error:
        facts = {"error": f"it needs more memory than it is given: {one_line(error, limit=200)}"}
    except BaseException as error:  # also SystemExit: a model has no say in how this ends
        facts = {"error": f"{type(error).__name__}: {one_line(error)}"}
    os.write(asked["said"], json.dumps(facts).encode())


def _answer(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd

    from moola.promotion.answers.sandbox import limit

    limit(**asked["limits"])
    table = pd.read_parquet(asked["features"])
    model = mlflow.pyfunc.load_model(asked["model"])
    call, classes, answer = _chosen(model, asked["proba"])
    feed = _feed(model)
    parts = [
        _array(answer(feed(table.iloc[start : start + _BATCH_ROWS])), start, len(table))
        for start in range(0, len(table), _BATCH_ROWS)
    ]
    if len({part.shape[1:] for part in parts}) != 1:
        raise BadInput("it answers batches in different shapes")
    with os.fdopen(asked["answers"], "wb", closefd=False) as file:
        np.lib.format.write_array(file, np.concatenate(parts), allow_pickle=False)
    return {"call": call, "classes": classes}


def _chosen(model: Any, proba: bool) -> tuple[str, list[Any] | None, Callable[[Any], Any]]:
    """Return what is called, the classes it answers for, and the call."""
    try:
        raw = model.get_raw_model()
    except Exception:  # flavors without one, and a model's own words
        raw = None
    stated = getattr(raw, "classes_", None)
    classes = None if stated is None else [_plain(c) for c in list(stated)[: _MOST_CLASSES + 1]]
    if proba and callable(getattr(raw, "predict_proba", None)):
        columns = _columns(model) or list(map(str, getattr(raw, "feature_names_in_", [])))
        return (
            "predict_proba",
            classes,
            lambda table: raw.predict_proba(table[columns] if columns else table),
        )
    return "predict", classes, model.predict


def _columns(model: Any) -> list[str]:
    signature = getattr(model.metadata, "signature", None)
    inputs = None if signature is None else signature.inputs
    if inputs is None or inputs.is_tensor_spec():
        return []
    return [name for name in inputs.input_names() if isinstance(name, str)]


def _feed(model: Any) -> Callable[[Any], Any]:
    """Return what turns a table into the input that a model's signature asks for."""
    signature = getattr(model.metadata, "signature", None)
    inputs = None if signature is None else signature.inputs
    if inputs is None or not inputs.is_tensor_spec() or inputs.has_input_names():
        return lambda table: table
    spec = inputs.inputs[0]
    shape = [-1, *spec.shape[1:]]
    return lambda table: table.to_numpy(dtype=spec.type).reshape(shape)


def _array(answers: Any, start: int, rows: int) -> Any:
    """Return the answers to one batch as an array of numbers or texts, shape (n,) or (n, k)."""
    import numpy as np

    if answers is None:
        raise BadInput("predict answers None")
    if isinstance(answers, dict):
        raise BadInput("predict answers a mapping, not one row of figures for each row")
    values = answers.detach().cpu().numpy() if hasattr(answers, "detach") else answers
    values = np.asarray(values)
    expected = min(_BATCH_ROWS, rows - start)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or len(values) != expected:
        raise BadInput(f"predict answers shape {values.shape} to {expected} rows")
    if values.ndim == 2 and values.shape[1] > _MOST_CLASSES:
        raise BadInput(f"predict answers {values.shape[1]} columns; at most {_MOST_CLASSES}")
    if values.dtype.kind == "O":
        kinds = {type(value) for value in values.ravel()}
        words = all(issubclass(kind, str) for kind in kinds)
        if not words and not all(issubclass(k, bool | int | float | np.generic) for k in kinds):
            names = ", ".join(sorted(kind.__name__ for kind in kinds)[:3])
            raise BadInput(f"predict answers values of type {names}")
        longest = max((len(value) for value in values.ravel()), default=0) if words else 0
        if longest > _LONGEST_TEXT:
            raise BadInput(f"predict answers a text of {longest} characters")
        values = values.astype(f"U{max(longest, 1)}" if words else np.float64)
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind == "U":
        return values.astype(f"U{_LONGEST_TEXT}")
    raise BadInput(f"predict answers values of type {values.dtype}")


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float) else str(value)[:_LONGEST_TEXT]
