"""One context manager a run: whatever happens inside, the run ends with a status and a reason."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from moola.config import names
from moola.errors import MoolaError
from moola.hashing import pretty_json
from moola.tracking.lineage import GitState, environment, git_state, git_tags
from moola.tracking.store import connect, experiment_id, first_line

_BATCH_METRICS = 1000
_BATCH_PARAMS = 100
_TAG_CHARS = 5000


class Terminated(BaseException):
    """The process was asked to stop (SIGTERM)."""


class TrackedRun:
    """A running MLflow run: everything Moola logs goes through here, in batches.

    Artifacts are staged in a local folder and uploaded once, when the run ends.
    """

    def __init__(self, client: MlflowClient, run_id: str, name: str, git: GitState, staging: Path):
        self.client = client
        self.run_id = run_id
        self.name = name
        self.git = git
        self._staging = staging

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters."""
        entities = [Param(str(k), str(v)) for k, v in params.items()]
        for i in range(0, len(entities), _BATCH_PARAMS):
            self.client.log_batch(self.run_id, params=entities[i : i + _BATCH_PARAMS])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        entities = [RunTag(k, str(v)[:_TAG_CHARS]) for k, v in tags.items()]
        self.client.log_batch(self.run_id, tags=entities)

    def log_metrics(
        self,
        metrics: Mapping[str, float | None],
        *,
        model_id: str | None = None,
        dataset: DatasetInput | None = None,
    ) -> None:
        """Log final figures; an undefined one (None) is left out, never written as 0 or NaN."""
        self._log([{k: v for k, v in metrics.items() if v is not None}], model_id, dataset)

    def log_history(self, rows: Sequence[Mapping[str, Any]], *, prefix: str = "") -> None:
        """Log one row an epoch; the row's ``epoch`` is the step."""
        self._log([{f"{prefix}{k}": v for k, v in r.items() if k != "epoch"} for r in rows])

    def log_inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Log data sets with their contexts."""
        self.client.log_inputs(self.run_id, list(datasets))

    def log_json(self, path: str, value: Mapping[str, Any]) -> None:
        """Stage a JSON artifact."""
        self.log_bytes(path, pretty_json(value).encode())

    def log_bytes(self, path: str, content: bytes) -> None:
        """Stage an artifact."""
        target = self._target(path)
        target.write_bytes(content)

    def log_parquet(self, path: str, table: pa.Table) -> None:
        """Stage a table as zstd parquet."""
        pq.write_table(table, self._target(path), compression="zstd")

    def log_image(self, key: str, pixels: NDArray[np.uint8]) -> None:
        """Log an image, shape (h, w, 3), where the chart view shows it side by side with others."""
        self.client.log_image(self.run_id, pixels, key=key, step=0)

    def log_table(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table that the web page's table view groups and compares."""
        self.client.log_table(self.run_id, pd.DataFrame(list(rows)), path)

    def flush(self) -> None:
        """Upload what is staged."""
        if any(self._staging.iterdir()):
            self.client.log_artifacts(self.run_id, str(self._staging))
            for path in sorted(self._staging.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()

    def _target(self, path: str) -> Path:
        target = self._staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _log(
        self,
        rows: Sequence[Mapping[str, Any]],
        model_id: str | None = None,
        dataset: DatasetInput | None = None,
    ) -> None:
        now = int(time.time() * 1000)
        linked = {}
        if dataset is not None:
            linked = {
                "dataset_name": dataset.dataset.name,
                "dataset_digest": dataset.dataset.digest,
            }
        entities = [
            Metric(str(k), float(v), now, step, model_id=model_id, run_id=self.run_id, **linked)
            for step, row in enumerate(rows)
            for k, v in row.items()
        ]
        for i in range(0, len(entities), _BATCH_METRICS):
            self.client.log_batch(self.run_id, metrics=entities[i : i + _BATCH_METRICS])


@contextmanager
def tracked_run(
    *,
    step: str,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    device: str | None = None,
    tracking_uri: str | None = None,
) -> Iterator[TrackedRun]:
    """Open a run, or join the one that ``mlflow run`` opened, and end it whatever happens.

    FINISHED when the block ends; KILLED on SIGTERM or Ctrl-C; FAILED on any other exception, with
    the reason in the tag ``moola.reason`` and the traceback as an artifact.
    """
    client = connect(tracking_uri)
    git = git_state()
    joined = os.environ.get("MLFLOW_RUN_ID")
    if joined:
        active = mlflow.start_run()  # takes MLFLOW_RUN_ID, once
        client.update_run(active.info.run_id, name=name)
    else:
        active = mlflow.start_run(experiment_id=experiment_id(client, experiment), run_name=name)
    with tempfile.TemporaryDirectory(prefix="moola-run-") as staging, _sigterm_raises():
        run = TrackedRun(client, active.info.run_id, name, git, Path(staging))
        try:
            run.set_tags({names.TAG_STEP: step, **git_tags(git)})
            run.log_params(_new_params(client, run.run_id, params))
            run.log_json("environment.json", environment(device))
            if git.diff:
                run.log_bytes("git/uncommitted.diff", git.diff.encode())
            yield run
            run.flush()
        except BaseException as error:
            _end_badly(run, error)
            raise
        mlflow.end_run("FINISHED")


@contextmanager
def child_run(
    parent: TrackedRun, name: str, *, tags: Mapping[str, Any], metrics: Mapping[str, float | None]
) -> Iterator[TrackedRun]:
    """Open a run below `parent`, in the parent's experiment."""
    experiment = parent.client.get_run(parent.run_id).info.experiment_id
    own = {"mlflow.parentRunId": parent.run_id, **git_tags(parent.git), **tags}
    created = parent.client.create_run(
        experiment, tags={k: str(v)[:_TAG_CHARS] for k, v in own.items()}, run_name=name
    )
    with tempfile.TemporaryDirectory(prefix="moola-run-") as staging:
        run = TrackedRun(parent.client, created.info.run_id, name, parent.git, Path(staging))
        status = "FAILED"
        try:
            run.log_metrics(metrics)
            yield run
            run.flush()
            status = "FINISHED"
        finally:
            parent.client.set_terminated(run.run_id, status)


def fail_joined_run(reason: str) -> None:
    """End the run that ``mlflow run`` opened as FAILED, if no step has joined it yet.

    For errors that come before a step begins, such as a bad argument.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return
    try:
        client = connect()
        client.set_tag(run_id, names.TAG_REASON, reason[:_TAG_CHARS])
        client.set_terminated(run_id, "FAILED")
    except (MoolaError, MlflowException, OSError):
        return  # the store is the trouble; the reason is on the terminal


def _end_badly(run: TrackedRun, error: BaseException) -> None:
    killed = isinstance(error, KeyboardInterrupt | Terminated)
    reason = f"stopped by {type(error).__name__}" if killed else first_line(error)
    try:
        run.set_tags({names.TAG_REASON: reason})
        if not isinstance(error, MoolaError) and not killed:
            run.log_bytes("traceback.txt", traceback.format_exc().encode())
        run.flush()
    except (MlflowException, OSError):
        pass  # the first error is the one to report
    finally:
        mlflow.end_run("KILLED" if killed else "FAILED")


def _new_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what ``mlflow run`` has logged already: a parameter can be written once."""
    written = client.get_run(run_id).data.params
    return {k: v for k, v in params.items() if k not in written}


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated(f"signal {signum}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
