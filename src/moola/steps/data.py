"""Removing a set or a split: only what no run and no model version refers to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion

from moola.data.store.data_store import DataStore
from moola.errors import Refused
from moola.tracking.store import connect

_PAGE = 500
_NAMED = 5


def remove(name: str, *, data_root: str, tracking_uri: str | None = None) -> None:
    """Remove a set or a split from a data store.

    Parameters
    ----------
    name
        ``labeled_windows/mine``, ``synthetic_cache/x`` or ``splits/mine_fwd``.
    data_root
        The data store.
    tracking_uri
        Where runs and versions are looked for; None takes the usual one.

    Raises
    ------
    DataError
        If it does not exist, or another set or split needs it.
    Refused
        If a run or a version refers to it.
    TrackingError
        If the tracking store cannot be reached: then nobody knows.
    """
    store = DataStore(data_root)
    client = connect(tracking_uri)
    users = [f"run {r.info.run_id}" for r in _runs(client) if _refers(r, name)]
    users += [
        f"version {v.version} of {v.name}"
        for v in _versions(client)
        if any(_is(value, name) for value in v.tags.values())
    ]
    if users:
        more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
        raise Refused(
            f"{name} is referred to by {', '.join(users[:_NAMED])}{more}",
            limit="a set or split that no run and no version refers to",
            remedy="Delete them first (mlflow gc), or keep it",
        )
    store.remove(name)


def _runs(client: MlflowClient) -> Iterator[Run]:
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    token: str | None = None
    while experiments:
        page = client.search_runs(
            experiments, run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _versions(client: MlflowClient) -> Iterator[ModelVersion]:
    token: str | None = None
    while True:
        page = client.search_model_versions(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _refers(run: Run, name: str) -> bool:
    """Whether a run was given a set or a split, as a parameter or as an input."""
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    named = [*run.data.params.values(), *(i.dataset.name for i in inputs)]
    return any(_is(value, name) for value in named)


def _is(value: str, name: str) -> bool:
    """Whether a value names the set or split, in any of the spellings the commands take."""
    kind, _, bare = name.partition("/")
    bare = bare.removesuffix(".json")
    plain = value.strip().removesuffix(".json")
    if kind == "splits":
        return plain == bare or PurePosixPath(plain).parts[-2:] == (kind, bare)
    return plain == f"{kind}/{bare}"
