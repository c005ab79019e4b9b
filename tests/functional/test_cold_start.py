"""Eight processes that begin at once, into one fresh database and into one server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fault_kit import MlflowServer
from mlflow import MlflowClient

NUM_PROCESSES = 8
RUN = textwrap.dedent(
    """
    import sys
    from moola.tracking.mlflow_run import tracked_run
    print("ready", flush=True)
    sys.stdin.readline()
    name = sys.argv[1]
    with tracked_run(step="test", experiment="moola-cold", name=name, params={"a": 1}) as run:
        run.log_history([{"epoch": e, "loss": e / 2} for e in range(200)])
        run.log_json("a.json", {"b": 2})
    """
)


def begin_at_once(folder: Path, uri: str) -> None:
    """Run eight processes that have loaded everything and then begin together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, f"run-{i}"],
            cwd=folder,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(NUM_PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert errors == ""


def check_all(store: str) -> None:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("moola-cold").experiment_id
    runs = client.search_runs([experiment])
    assert sorted(r.info.run_name for r in runs) == [f"run-{i}" for i in range(NUM_PROCESSES)]
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [m.value for m in history] == [e / 2 for e in range(200)]


@pytest.mark.slow
def test_eight_runs_begin_in_one_fresh_database(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    begin_at_once(tmp_path, store)
    check_all(store)
    assert len(list((tmp_path / "mlartifacts" / "moola-cold").glob("*/artifacts/a.json"))) == 8


@pytest.mark.slow
def test_eight_runs_begin_at_one_fresh_server(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path, workers=4)
    server.start()
    try:
        begin_at_once(tmp_path, f"http://127.0.0.1:{server.port}")
        check_all(server.store)
    finally:
        server.kill()
