"""The main job at its smallest, for the tests: real data, a real store, seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_kit import SHIPPED
from mlflow import MlflowClient
from process_kit import free_port, wait_until_up

from moola.config import names
from moola.config.data import SplitRecipe, WindowRecipe
from moola.config.pretraining import PretrainConfig
from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.tracking.proofs import PROOFS

TINY_ENCODER = PretrainConfig(
    hidden_dim=32, num_layers=1, epochs=2, windows_per_epoch=128, batch_size=64, device="cpu"
)
TINY = FinetuneConfig(
    preset="compact", epochs=3, unfreeze_after=1, patience=0, learning_rate=2e-3, device="cpu"
)
SHORT = {"source": "eurusd_1h", "window_bars": 24, "horizon_bars": 6}


def short_project(root: Path, template_db: Path) -> DataStore:
    """Make a project of an empty store, a set of short windows and two walk-forward folds."""
    shutil.copy(template_db, root / "mlflow.db")
    (root / "data" / "bars").mkdir(parents=True)
    shutil.copy(SHIPPED / "eurusd_1h.parquet", root / "data" / "bars")
    registry = DataStore(root / "data")
    recipe = WindowRecipe(**SHORT, step_bars=12, start="2017-06-01")
    registry.build_set("labeled_windows/v1", recipe)
    walk = SplitRecipe(labeled="labeled_windows/v1", strategy="walk_forward", num_folds=2)
    registry.build_split("walk_forward_v1", walk)
    return registry


@contextmanager
def mlflow_process(*words: str, ready: str, **env: str) -> Iterator[str]:
    """Run an ``mlflow`` server command on a free local port, see `server_process`."""
    with server_process("mlflow", *words, ready=ready, **env) as (url, _):
        yield url


@contextmanager
def server_process(
    module: str, *words: str, ready: str, log: Path | None = None, **env: str
) -> Iterator[tuple[str, int]]:
    """Run a module's server command on a free local port; it is stopped by its own group.

    `ready` is the path that answers once it is up; ``{port}`` in `words` stands for the port. Its
    output goes to `log`. Yields its address and its process id.
    """
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (log or Path(os.devnull)).open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *(w.format(port=port) for w in words)],
            env={**os.environ, "PATH": path, **env},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(process, f"{url}{ready}", log=log)
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)  # a server that does not end by itself fails the test


def proofs_of(client: MlflowClient, run_id: str) -> dict[str, str]:
    """Return what a run's tags say of its five proofs; what is logged must be there."""
    tags = client.get_run(run_id).data.tags
    found = {proof: tags[names.TAG_PROOF.format(proof=proof)] for proof in PROOFS}
    for said in found.values():
        if said.startswith("logged: "):
            json.loads(artifact(client, run_id, said.removeprefix("logged: ")).read_text())
    return found


def artifact(client: MlflowClient, run_id: str, path: str) -> Path:
    """Download an artifact of a run and return its path."""
    return Path(client.download_artifacts(run_id, path))


def rebuilt_from_the_store(client: MlflowClient, run_id: str) -> dict[str, object]:
    """What a run was, by MlflowClient alone: no file of the project is opened."""
    run = client.get_run(run_id)

    def read(path: str) -> dict:
        return json.loads(artifact(client, run_id, path).read_text())

    def context(entry: object) -> str:
        return next(t.value for t in entry.tags if t.key == "mlflow.data.context")

    data = {
        context(entry): {
            "name": entry.dataset.name,
            "sha256": next(t.value for t in entry.tags if t.key == "moola.sha256"),
            "uri": json.loads(entry.dataset.source)["uri"],
            "num_windows": json.loads(entry.dataset.profile)["num_windows"],
        }
        for entry in run.inputs.dataset_inputs
    }
    found = {"data": data, "split": read(names.ARTIFACT_SPLIT), "tags": run.data.tags}
    if run.data.tags[names.TAG_STEP] == "finetune":
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        found |= {
            "load_report": read(names.ARTIFACT_LOAD_REPORT),
            "freeze": read(names.ARTIFACT_FREEZE_SCHEDULE),
            "model_links": {
                m.key: (m.value, m.dataset_name, m.dataset_digest)
                for m in model.metrics
                if m.dataset_name
            },
            "environment": read("environment.json"),
        }
    bins = read(names.ARTIFACT_BINS)
    return {**found, "bins": bins, "metrics": run.data.metrics, "params": run.data.params}
