"""A user's calls against a server, recorded in a form in which two servers can be compared.

A flow is a function that gets a `User` and makes its calls through it. `User.call` and `User.ask`
expect a call to succeed on a plain server, `User.fails` expects it to fail there; what a call gave
or why it failed is kept without the ids, times, addresses and folders that differ in each run.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import requests
from mlflow import MlflowClient
from mlflow.entities._mlflow_object import _MlflowObject
from mlflow.exceptions import MlflowException

Flow = Callable[["User"], None]

_TIMES = re.compile(r"time|duration|latency|_at$|_ms$|_ns$|^date$|expires|uptime|last_.*_by", re.I)
_COUNTED = re.compile(r"experiment_?ids?$|^digest$", re.I)  # one experiment more shifts them all
_OURS = "moola|mlflow\\.source|git"
_RANDOM = re.compile(r"^(span|trace|parent_span)_id$")
_IDS = (
    (re.compile(r"(mlflow-artifacts:/|/experiments/|experiment )\d+"), r"\1<experiment>"),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "<server>"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\b(?:tr|m|d|a|w|wh|s|e|ls|rq|iss|job|md)-[0-9a-f]{16,}"), "<id>"),
    (re.compile(r"\b(?:0x)?[0-9a-f]{16,64}\b"), "<hex>"),
    (re.compile(r"\b\d+/<hex>/artifacts"), "<experiment>/<hex>/artifacts"),
    (re.compile(r"\b1[5-9]\d{11,17}\b"), "<time>"),
    (re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b[a-z]+-[a-z]+-\d{1,3}\b"), "<name>"),  # MLflow's names of runs
    (re.compile(r"/[\w./-]*/(?:tmp|pytest-[\w-]+)[\w./-]*"), "<path>"),
)


@dataclass(frozen=True)
class Outcome:
    """What a call gave: whether it succeeded, and its answer or its refusal in words."""

    well: bool
    said: Any
    expected: bool = True


@dataclass
class User:
    """Somebody who uses a server and has never heard of Moola.

    Parameters
    ----------
    url
        Address of the server.
    backend
        Address of its database, for ``mlflow gc``.
    artifacts
        The folder in which it keeps artifacts.
    folder
        An empty folder for the user's own files.
    credentials
        User and password, where the server asks for them.
    """

    url: str
    backend: str
    artifacts: Path
    folder: Path
    credentials: tuple[str, str] | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = MlflowClient(self.url)

    def call(self, step: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Make a call that succeeds on a plain server; return its value, None if it failed."""
        return self._take(step, True, lambda: function(*args, **kwargs))

    def fails(self, step: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Make a call that fails on a plain server as well."""
        self._take(step, False, lambda: function(*args, **kwargs))

    def ask(self, step: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Send a request as the web page does; return the JSON of its answer or its text."""
        return self._take(step, True, lambda: self._request(method, path, body, **more))

    def denied(self, step: str, method: str, path: str, body: Any = None, **more: Any) -> None:
        """Send a request that a plain server does not answer with success either."""
        self._take(step, False, lambda: self._request(method, path, body, **more))

    def experiment(self, name: str) -> str:
        """Return a new experiment of the flow's own."""
        made = self.client.create_experiment
        self.call(f"experiment {name}", lambda: made(name) and "made")
        return str(self.client.get_experiment_by_name(name).experiment_id)

    def run(self, experiment_id: str) -> str:
        """Return a new run in it."""
        run = self.call(
            f"run {len(self.outcomes)}", self.client.create_run, experiment_id, run_name="r"
        )
        return str(run.info.run_id)

    def _request(self, method: str, path: str, body: Any, **more: Any) -> Any:
        how: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        how |= {"auth": self.credentials, "timeout": 120, **more}
        answer = requests.request(method, self.url + path, **how)
        try:
            said = answer.json()
        except ValueError:
            said = answer.text
        if not answer.ok:
            raise Answered(answer.status_code, said)
        return said

    def _take(self, step: str, expected: bool, call: Callable[[], Any]) -> Any:
        assert step not in self.outcomes, f"two steps are named {step!r}"
        try:
            value = call()
        except Exception as error:
            self.outcomes[step] = Outcome(False, refusal(error), not expected)
            return None
        self.outcomes[step] = Outcome(True, normal(value), expected)
        return value


class Answered(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, said: Any):
        super().__init__(f"{status} {said}")
        self.status, self.said = status, said


def take(flow: Flow, user: User) -> dict[str, Outcome]:
    """Let a user take a flow; where it cannot go on, say so as its last outcome."""
    user.outcomes = {}
    try:
        with at(user.url):
            flow(user)
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        user.outcomes["(broke off)"] = Outcome(False, f"{type(error).__name__}: {line}", False)
    return user.outcomes


def differing(one: Mapping[str, Outcome], other: Mapping[str, Outcome]) -> dict[str, tuple]:
    """Return the steps that came out differently, and both outcomes."""
    steps = [*one, *(step for step in other if step not in one)]
    return {s: (one.get(s), other.get(s)) for s in steps if one.get(s) != other.get(s)}


def refusal(error: Exception) -> Any:
    """Return the kind of an error, its code and its first line."""
    if isinstance(error, Answered):
        said = error.said
        if isinstance(said, str):
            said = said[:200] if "<html" not in said.lower() else "(a page)"
        return [error.status, normal(said)]
    line = normal(str(error).strip().split("\n")[0])
    if isinstance(error, MlflowException):
        return [error.error_code, line]
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return [error.response.status_code, line]
    return [type(error).__name__, line]


def normal(value: Any, key: str = "") -> Any:
    """Return a value as plain data, without what differs between two runs of the same call."""
    if value is None or isinstance(value, bool | float | np.floating):
        return "<time>" if key and _TIMES.search(key) and value else value
    if _COUNTED.search(key) and isinstance(value, int):
        return "<counted>"
    if isinstance(value, int | np.integer):
        return "<time>" if _TIMES.search(key) or abs(value) > 10**12 else int(value)
    if isinstance(value, bytes):
        return normal(value.decode(errors="replace"))
    if isinstance(value, str):
        if _RANDOM.search(key):
            return "<id>"
        return "<counted>" if _COUNTED.search(key) else _normal_text(value, key)
    if isinstance(value, pd.DataFrame):
        return normal(value.to_dict("list"))
    if isinstance(value, np.ndarray):
        return normal(value.tolist())
    if isinstance(value, Path):
        return normal(value.name)
    if isinstance(value, Mapping):
        items = {str(k): v for k, v in value.items() if not re.search(_OURS, str(k))}
        return {_normal_text(k, ""): normal(v, k) for k, v in sorted(items.items())}
    if isinstance(value, set | frozenset):
        return sorted((normal(v) for v in value), key=repr)
    if isinstance(value, Iterable) and not isinstance(value, _MlflowObject):
        return [normal(v, key if _COUNTED.search(key) else "") for v in value]
    return _normal_object(value)


def _normal_text(text: str, key: str) -> Any:
    if key and _TIMES.search(key):
        return "<time>"
    if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
        try:
            return normal(json.loads(text))
        except ValueError:
            pass
    for pattern, word in _IDS:
        text = pattern.sub(word, text)
    return text


def _normal_object(value: Any) -> Any:
    if isinstance(value, _MlflowObject):
        return {"is": type(value).__name__, **normal(dict(value))}
    for method in ("to_dict", "model_dump", "to_dictionary"):
        if callable(getattr(value, method, None)):
            return {"is": type(value).__name__, **normal(getattr(value, method)())}
    public = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"is": type(value).__name__, **normal(public)}


@contextmanager
def at(url: str) -> Iterator[None]:
    """Have MLflow's own functions talk to a server, and put their settings back."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(url)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.tracking.fluent._active_experiment_id = None
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # set_experiment puts it there
