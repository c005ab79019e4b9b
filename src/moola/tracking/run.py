"""What a step logs into its run; everything goes through the spool, in order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import DatasetInput
from mlflow.tracking import fluent
from numpy.typing import NDArray

from moola.config import names
from moola.errors import TrackingError
from moola.hashing import pretty_json
from moola.tracking.delivery import BATCH_METRICS, BATCH_PARAMS
from moola.tracking.lineage import GitState
from moola.tracking.pictures import IMAGE_TAGS, image_files, png, table_file, table_tags
from moola.tracking.proofs import Proofs
from moola.tracking.sender import Sender


class TrackedRun:
    """A running MLflow run. No method but `require_store` waits for the store.

    Attributes
    ----------
    client
        Client of the run's store, for what is not logged (the model registry).
    key
        Identity of the run where the store has none for it yet.
    git
        State of the code.
    proofs
        The run's five proofs.
    """

    def __init__(self, client: MlflowClient, sender: Sender, key: str, name: str, git: GitState):
        self.client = client
        self.sender = sender
        self.key = key
        self.name = name
        self.git = git
        self.joined = False
        self.proofs = Proofs(self.log_json, self.set_tags)
        self._tables: list[str] = []
        self._linger = False

    @property
    def run_id(self) -> str:
        """The store's id of the run; its key until the store has answered."""
        return self.sender.spool.ids.get(self.key, {}).get("run_id", self.key)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters."""
        items = [(str(k), str(v)) for k, v in params.items()]
        for i in range(0, len(items), BATCH_PARAMS):
            batch = {"params": dict(items[i : i + BATCH_PARAMS])}
            self._append("batch", {**batch, "joined": True} if self.joined else batch)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._append("batch", {"tags": tag_texts(tags)})

    def log_metrics(
        self,
        metrics: Mapping[str, float | None],
        *,
        model_id: str | None = None,
        dataset: DatasetInput | None = None,
    ) -> None:
        """Log final figures, linked to a model and a data set where given.

        An undefined one (None) is left out, never written as 0 or NaN.
        """
        links = {} if model_id is None else {"model_id": model_id}
        if dataset is not None:
            links["dataset_name"] = dataset.dataset.name
            links["dataset_digest"] = dataset.dataset.digest
        self._log([(0, {k: v for k, v in metrics.items() if v is not None})], links)

    def log_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log one row an epoch; the row's ``epoch`` is the step."""
        self._log(
            [
                (int(row.get("epoch", i)), {k: v for k, v in row.items() if k != "epoch"})
                for i, row in enumerate(rows)
            ]
        )

    def log_inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Log data sets with their contexts."""
        rows = [
            {"dataset": d.dataset.to_dictionary(), "tags": {t.key: t.value for t in d.tags}}
            for d in datasets
        ]
        self._append("inputs", {"datasets": rows})

    def log_json(self, path: str, value: Mapping[str, Any]) -> None:
        """Log a JSON artifact."""
        self.log_bytes(path, pretty_json(value).encode())

    def log_bytes(self, path: str, content: bytes) -> None:
        """Log an artifact."""
        self._append("files", {}, {path: content})

    def log_parquet(self, path: str, table: pa.Table) -> None:
        """Log a table as zstd parquet."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.log_bytes(path, sink.getvalue().to_pybytes())

    def log_image(self, key: str, pixels: NDArray[np.uint8]) -> None:
        """Log an image, shape (h, w, 3), where the chart view shows it side by side with others."""
        self._append("files", {}, image_files(key, pixels, step=0, time_ms=_now_ms()))
        self.set_tags(IMAGE_TAGS)

    def log_picture(self, path: str, key: str, pixels: NDArray[np.uint8]) -> None:
        """Log an image once as an artifact and once for the chart view."""
        self.log_bytes(path, png(pixels))
        self.log_image(key, pixels)

    def log_table(
        self, path: str, rows: Sequence[Mapping[str, Any]], *, listed: bool = True
    ) -> None:
        """Log a table; if it is `listed`, the web page's table view groups and compares it.

        A run lists its chief table only: beside another one the view does not open with it.
        """
        self.log_bytes(path, table_file(rows))
        if not listed:
            return
        if path not in self._tables:
            self._tables.append(path)
        self.set_tags(table_tags(self._tables))

    def require_store(self, purpose: str) -> None:
        """Return when the store has everything logged so far.

        Parameters
        ----------
        purpose
            What needs the store, for the message.

        Raises
        ------
        TrackingError
            If the store is away; what was logged stays in the spool.
        """
        if not self.sender.wait(self.sender.own_is_sent):
            raise TrackingError(
                f"{purpose} needs the tracking store, which is away: "
                f"{self.sender.trouble or 'it does not answer'}",
                remedy="What this run logged is safe in the spool: run `moola sync` when the store "
                "is back, then repeat the command (`moola train` with --resume trains nothing "
                "again)",
            )

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Let what is logged in the block reach the store seconds later, in fewer requests.

        It is in the spool at once, so the end of the process costs nothing of it.
        """
        self._linger = True
        try:
            yield
        finally:
            self._linger = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this run MLflow's active run, for calls of MLflow that take no run.

        MLflow refuses to activate a run outside the experiment that a notebook has set, so that
        setting is put aside meanwhile.
        """
        chosen, fluent._active_experiment_id = fluent._active_experiment_id, None
        try:
            with mlflow.start_run(run_id=self.run_id):
                yield
        finally:
            fluent._active_experiment_id = chosen

    def end(self, status: str) -> None:
        """Write down how and when the run ended."""
        self._append("end", {"status": status, "end_time": _now_ms()})

    def _append(
        self, kind: str, body: Mapping[str, Any], files: Mapping[str, bytes] | None = None
    ) -> None:
        self.sender.append(self.key, kind, body, files, linger=self._linger)

    def _log(
        self, rows: Sequence[tuple[int, Mapping[str, Any]]], links: Mapping[str, str] | None = None
    ) -> None:
        now = _now_ms()
        metrics = [
            {"key": str(k), "value": float(v), "time": now, "step": step, **(links or {})}
            for step, row in rows
            for k, v in row.items()
        ]
        for i in range(0, len(metrics), BATCH_METRICS):
            self._append("batch", {"metrics": metrics[i : i + BATCH_METRICS]})


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags as texts that MLflow takes."""
    return {key: str(value)[: names.TAG_CHARS] for key, value in tags.items()}


def _now_ms() -> int:
    return int(time.time() * 1000)
