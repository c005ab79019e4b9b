"""Reaching the tracking store: fail fast and in one line where it cannot be reached."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.errors import TrackingError

_TIMEOUT_SECONDS = 3.0


def connect(uri: str | None = None) -> MlflowClient:
    """Point MLflow at a store and return a client.

    Parameters
    ----------
    uri
        Tracking URI; None takes ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.

    Raises
    ------
    TrackingError
        If the server does not answer within seconds or the URI is none that MLflow knows.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or names.DEFAULT_TRACKING_URI
    _quiet()
    if urlsplit(uri).scheme in ("http", "https"):
        _check_server(uri)
    mlflow.set_tracking_uri(uri)
    try:
        client = MlflowClient()
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise TrackingError(
            f"tracking store {uri} cannot be used: {first_line(error)}",
            remedy="Give a database or server URI, for example sqlite:///mlflow.db",
        ) from None
    return client


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return an experiment's id, creating it; on a database store its files go to mlartifacts/."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if not urlsplit(mlflow.get_tracking_uri()).scheme.startswith("http"):
        location = (Path.cwd() / names.ARTIFACT_ROOT / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process was first
        if found is None:
            raise
        return str(found.experiment_id)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):  # it answers; credentials and routes are MLflow's matter
            return
        reason = f"it answers {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise TrackingError(
        f"tracking server {uri} cannot be reached: {reason}",
        limit=f"an answer within {_TIMEOUT_SECONDS:g} s",
        remedy="Start it with `make server`, or unset MLFLOW_TRACKING_URI to use sqlite:///mlflow.db",
    )


def _quiet() -> None:
    """Keep MLflow's set-up messages out of a report that a person reads."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="mlflow")
    warnings.filterwarnings("ignore", message=".*model registry stages.*")
