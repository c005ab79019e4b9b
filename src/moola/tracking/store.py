"""Reaching the tracking store: fail fast and in one line where it cannot be reached."""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.errors import TrackingError, one_line

_TIMEOUT_SECONDS = 3.0
_CAUSE = re.compile(r"Caused by \w+\((?:.*?: |\")([^()\"']+)")  # of what urllib3 says at length
_CLIENT_DEFAULTS = {
    # MLflow's own are 7 and 120: to repeat is the sender's business, and other calls fail fast
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # Moola draws its own
}


def connect(uri: str | None = None, *, makes: bool = False) -> MlflowClient:
    """Point MLflow at a store and return a client.

    Parameters
    ----------
    uri
        Tracking URI; None takes ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.
    makes
        Whether a store on this machine is made where there is none. Whoever only reads says no, so
        that a command in a wrong folder leaves nothing behind.

    Returns
    -------
    MlflowClient
        A client of the store.

    Raises
    ------
    TrackingError
        If the server does not answer within seconds, the URI is none that MLflow knows, or there
        is no store and none is to be made.
    """
    uri = _chosen(uri)
    path = _sqlite_path(uri)
    if not makes and path is not None and not path.exists():
        raise TrackingError(
            f"there is no store here: {path.absolute()} does not exist",
            limit="a project's folder, or its store in MLFLOW_TRACKING_URI",
            remedy="Change to the project's folder; in a new one, `moola data init`, `moola data "
            "build` and `moola train` make a first run",
        )
    if not is_server(uri):
        return open_store(uri)
    _check_server(uri)
    client = open_store(uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise _unusable(uri, error) from None
    return client


def store_exists(uri: str | None = None) -> bool:
    """Return whether there is a store; a server or PostgreSQL is taken to be there."""
    path = _sqlite_path(_chosen(uri))
    return path is None or path.exists()


def open_store(uri: str | None = None) -> MlflowClient:
    """Point MLflow at a store without asking whether a server answers, and return a client.

    A database is initialised here, by one process at a time: MLflow's own initialisation of a fresh
    database fails when several processes begin it at once.

    Parameters
    ----------
    uri
        Tracking URI; None takes ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.

    Returns
    -------
    MlflowClient
        A client of the store.

    Raises
    ------
    TrackingError
        If the URI is none that MLflow knows, or the database cannot be used.
    """
    uri = _chosen(uri)
    _quiet()
    for variable, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    mlflow.set_tracking_uri(uri)
    try:
        with _one_initialises(absolute_uri(uri)):
            client = MlflowClient(uri)
            if not is_server(uri):
                client.search_experiments(max_results=1)
    except MlflowException as error:
        raise _unusable(uri, error) from None
    return client


def is_server(uri: str) -> bool:
    """Return whether a store is reached over HTTP."""
    return urlsplit(uri).scheme in ("http", "https")


def absolute_uri(uri: str) -> str:
    """Return a URI that means the same store from any working directory."""
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where a new experiment's files go: mlartifacts/ here, or where a server puts them."""
    return None if is_server(uri) else (Path.cwd() / names.ARTIFACT_ROOT / experiment).as_uri()


def experiment_id(client: MlflowClient, name: str, location: str | None) -> str:
    """Return an experiment's id, creating it with its artifacts at `location`."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)  # another process was first
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def lost_race(error: Exception) -> bool:
    """Return whether another client logged the same data set first: a second attempt finds it."""
    return any(w in str(error) for w in ("duplicate key", "UNIQUE constraint failed"))


def _chosen(uri: str | None) -> str:
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or names.DEFAULT_TRACKING_URI


def shown(uri: str) -> str:
    """Return a store's address without the password in it."""
    return re.sub(r"(//[^/@:]*):[^@]*@", r"\1:***@", uri)


def _unusable(uri: str, error: Exception) -> TrackingError:
    if is_server(uri):
        why = _CAUSE.search(str(error))
        reason = why[1] if why else one_line(error, limit=120)
        return TrackingError(
            f"tracking server {shown(uri)} does not answer: {reason}", remedy=_start_it(uri)
        )
    return TrackingError(
        f"tracking store {shown(uri)} cannot be used: {one_line(error)}",
        remedy="Give a database or server URI, for example sqlite:///mlflow.db",
    )


def _sqlite_path(uri: str) -> Path | None:
    path = uri.partition(":///")[2].partition("?")[0]
    named = urlsplit(uri).scheme.startswith("sqlite") and path not in ("", ":memory:")
    return Path(path) if named else None


@contextmanager
def _one_initialises(uri: str) -> Iterator[None]:
    """Let the process that finds no tables in a SQLite file make them before others look."""
    path = _sqlite_path(uri)
    if path is None or not os.access(path.parent, os.W_OK):
        yield
        return
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if _has_tables(path) else fcntl.LOCK_EX)
        yield


def _has_tables(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT count(*) FROM alembic_version").fetchone()[0])
    except sqlite3.Error:
        return False


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):  # it answers; credentials and routes are MLflow's matter
            return
        reason = f"it answers {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error))
    raise TrackingError(
        f"tracking server {shown(uri)} cannot be reached: {reason}",
        limit=f"an answer within {_TIMEOUT_SECONDS:g} s",
        remedy=_start_it(uri),
    )


def _start_it(uri: str) -> str:
    here = urlsplit(uri).hostname in ("localhost", "127.0.0.1", "::1")
    start = "Start it with `moola server`" if here else "Ask whoever runs it, or mend the address"
    return f"{start}; without MLFLOW_TRACKING_URI the store is sqlite:///mlflow.db here"


def _quiet() -> None:
    """Keep MLflow's set-up messages out of a report that a person reads."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="mlflow")
    warnings.filterwarnings("ignore", message=".*model registry stages.*")
