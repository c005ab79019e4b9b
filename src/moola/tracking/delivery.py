"""Bringing spool entries to a store, so that bringing one twice does what bringing it once does.

Metrics are known by key, step, time and value, parameters and tags by key, files by path, data sets
by name and digest: repeating them changes nothing. A run is known by the tag ``moola.run_key``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from requests import HTTPError

from moola.config import names
from moola.errors import one_line
from moola.tracking.spool import Spool, SpoolEntry
from moola.tracking.store import experiment_id, is_server, lost_race

BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS, BATCH_ALL = 1000, 100, 100, 1000  # MLflow's limits
_REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


class StoreAway(Exception):
    """The store does not answer, or answers that it cannot work; the entry has to wait."""


class StoreRefuses(Exception):
    """The store will never take this entry."""


def deliver(client: MlflowClient, spool: Spool, entries: Sequence[SpoolEntry]) -> None:
    """Bring entries of one run and kind (see `next_load`) to a store and write that down.

    Parameters
    ----------
    client
        Client of the store.
    spool
        Where the entries are kept, and where it is written down that they were taken.
    entries
        Entries of one run and kind.

    Raises
    ------
    StoreAway
        If the store cannot take them now.
    """
    try:
        _send(client, spool, entries)
    except StoreRefuses as refusal:
        for entry in entries:
            spool.refuse(entry, f"{entry.kind}: {refusal}")


def next_load(waiting: Sequence[SpoolEntry]) -> list[SpoolEntry]:
    """Return the first entry with those behind it that fit into the same request.

    Files between them are passed over: it does not matter which of the two comes first.
    """
    first = waiting[0]
    load, content = [first], _Batch(first)
    if first.kind != "batch":
        return load
    for entry in waiting[1:]:
        if entry.run == first.run and entry.kind == "files":
            continue
        if (entry.kind, entry.run) != ("batch", first.run) or not content.takes(entry):
            break
        load.append(entry)
    return load


class _Batch:
    """The joined content of batch entries."""

    def __init__(self, *entries: SpoolEntry):
        self.metrics: list[Any] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        for entry in entries:
            self._add(entry)

    def takes(self, entry: SpoolEntry) -> bool:
        """Add an entry's content if it fits; a parameter said twice does not."""
        params, tags = entry.body.get("params", {}), entry.body.get("tags", {})
        counts = (
            len(self.metrics) + len(entry.body.get("metrics", [])),
            len(self.params) + len(params),
            len(self.tags) + len(tags),
        )
        limits = (BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS)
        over = any(n > limit for n, limit in zip(counts, limits, strict=True))
        if over or sum(counts) > BATCH_ALL or self.params.keys() & params.keys():
            return False
        self._add(entry)
        return True

    def _add(self, entry: SpoolEntry) -> None:
        self.metrics += entry.body.get("metrics", [])
        self.params |= entry.body.get("params", {})
        self.tags |= entry.body.get("tags", {})


def _send(client: MlflowClient, spool: Spool, entries: Sequence[SpoolEntry]) -> None:
    first = entries[0]
    facts = None
    try:
        if first.kind == "open":
            facts = _open(client, spool, first)
        elif first.run not in spool.ids:
            raise StoreRefuses("its run was refused")
        else:
            _SENDERS[first.kind](client, spool, entries)
    except (StoreRefuses, StoreAway):
        raise
    except Exception as error:
        raise _judged(client, error) from error
    for entry in entries:
        spool.confirm(entry, facts)


def _judged(client: MlflowClient, error: Exception) -> Exception:
    """Return whether an error means "not now" or "never"."""
    reason = one_line(error)
    if isinstance(error, HTTPError):
        status = error.response.status_code if error.response is not None else 500
        never = 400 <= status < 500 and status not in (401, 404, 408, 429)
    elif isinstance(error, MlflowException):
        answered = isinstance(error, RestException) or not is_server(client.tracking_uri)
        never = answered and error.error_code in _REFUSALS and not lost_race(error)
    else:
        never = not isinstance(error, OSError)
    return StoreRefuses(reason) if never else StoreAway(reason)


def _open(client: MlflowClient, spool: Spool, entry: SpoolEntry) -> dict[str, str]:
    """Create a run, or join one, and return its id and experiment."""
    body = entry.body
    if body.get("join"):
        client.update_run(body["join"], name=body["name"])
        experiment = client.get_run(body["join"]).info.experiment_id
        return {"run_id": body["join"], "experiment_id": str(experiment)}
    tags = {**body["tags"], names.TAG_RUN_KEY: entry.run}
    if body.get("parent"):
        if body["parent"] not in spool.ids:
            raise StoreRefuses("its parent run was refused")
        parent = spool.ids[body["parent"]]
        experiment = parent["experiment_id"]
        tags[names.TAG_PARENT] = parent["run_id"]
    else:
        experiment = experiment_id(client, body["experiment"], body["artifact_location"])
    runs = _runs_of(client, experiment, entry.run) if spool.tries[entry.run] else []
    if not runs:
        if not spool.trying(entry.run):
            raise StoreAway("the spool was handed on")
        created = client.create_run(
            experiment, start_time=body["start_time"], tags=tags, run_name=body["name"]
        )
        runs = [str(created.info.run_id)]
    return {"run_id": runs[0], "experiment_id": str(experiment)}


def _send_batch(client: MlflowClient, spool: Spool, entries: Sequence[SpoolEntry]) -> None:
    run_id = spool.ids[entries[0].run]["run_id"]
    content = _Batch(*entries)
    params = content.params
    if params and any(e.body.get("joined") for e in entries):
        stored = client.get_run(run_id).data.params  # by `mlflow run`; written once for good
        params = {k: v for k, v in params.items() if k not in stored}
    client.log_batch(
        run_id,
        metrics=[
            Metric(
                m["key"],
                m["value"],
                m["time"],
                m["step"],
                model_id=m.get("model_id"),
                dataset_name=m.get("dataset_name"),
                dataset_digest=m.get("dataset_digest"),
                run_id=run_id,
            )
            for m in content.metrics
        ],
        params=[Param(k, v) for k, v in params.items()],
        tags=[RunTag(k, _with_ids(v, spool)) for k, v in content.tags.items()],
    )


def _send_inputs(client: MlflowClient, spool: Spool, entries: Sequence[SpoolEntry]) -> None:
    inputs = [
        DatasetInput(
            dataset=Dataset(**d["dataset"]), tags=[InputTag(k, v) for k, v in d["tags"].items()]
        )
        for d in entries[0].body["datasets"]
    ]
    client.log_inputs(spool.ids[entries[0].run]["run_id"], inputs)


def _send_files(client: MlflowClient, spool: Spool, entries: Sequence[SpoolEntry]) -> None:
    folder = spool.files(entries[0])
    run_id = spool.ids[entries[0].run]["run_id"]
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parent = path.relative_to(folder).parent
        try:
            if path.suffix == ".json":
                text = path.read_text()
                if (resolved := _with_ids(text, spool)) != text:
                    path.write_text(resolved)
            client.log_artifact(run_id, str(path), None if parent == Path() else parent.as_posix())
        except FileNotFoundError:
            if path.exists():
                raise
            # logged again meanwhile: a later entry brings it


def _send_end(client: MlflowClient, spool: Spool, entries: Sequence[SpoolEntry]) -> None:
    run, body = entries[0].run, entries[0].body
    facts = spool.ids[run]
    client.set_terminated(facts["run_id"], body["status"], body["end_time"])
    if spool.tries[run] > 1:  # a creation that nobody heard of may have made a twin
        for twin in _runs_of(client, facts["experiment_id"], run):
            if twin != facts["run_id"]:
                client.delete_run(twin)


def _runs_of(client: MlflowClient, experiment: str, run: str) -> list[str]:
    runs = client.search_runs([experiment], f"tags.`{names.TAG_RUN_KEY}` = '{run}'")
    return sorted(str(r.info.run_id) for r in runs)


def _with_ids(text: str, spool: Spool) -> str:
    """Replace the keys that stood for runs while the store was away by the runs' ids."""
    for key, facts in spool.ids.items():
        text = text.replace(key, facts["run_id"])
    return text


_SENDERS = {
    "batch": _send_batch,
    "inputs": _send_inputs,
    "files": _send_files,
    "end": _send_end,
}
