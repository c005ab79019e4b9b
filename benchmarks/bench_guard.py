"""Measure what the guarded server costs beside the plain one: the same requests, in turns.

Both servers run at once over SQLite databases of their own with the same runs and versions; each
request goes to one and then to the other, in an order that changes. The figure is guarded / plain.

    python benchmarks/bench_guard.py                   # 300 rounds
    python benchmarks/bench_guard.py --rounds 50
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests

NAME = "Bench"
NUM_RUNS, NUM_VERSIONS, BATCH = 200, 5, 50


def seed(folder: Path) -> str:
    """Make a database with runs, versions and one promotion; return an id of a run to log to."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from moola.promotion.ledger.entry import Draft
    from moola.promotion.ledger.local import LocalLedger

    warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and guarded
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("bench", artifact_location="mlflow-artifacts:/bench")
    client.create_registered_model(NAME)
    for number in range(NUM_RUNS):
        run = client.create_run(experiment)
        metrics = [Metric(f"m{k}", number / (k + 1), 0, 0) for k in range(10)]
        client.log_batch(run.info.run_id, metrics=metrics)
        if number < NUM_VERSIONS:
            client.create_model_version(NAME, f"mlflow-artifacts:/bench/{number}", run.info.run_id)
    client.transition_model_version_stage(NAME, "1", "Production")
    client.set_registered_model_alias(NAME, "production", "1")
    LocalLedger(f"sqlite:///{folder}/mlflow.db").append(
        Draft(event="promotion", who="bench", name=NAME, reason="seed", version_to="1")
    )
    return str(run.info.run_id)


def start(folder: Path, *, guarded: bool) -> tuple[subprocess.Popen, str]:
    """Start a server over the database in `folder` and return it with its address."""
    from moola.promotion.evidence.keys import ensure_signing_key
    from moola.promotion.guard.server import server_command

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ensure_signing_key(folder)
    (folder / ".moola" / "policy.yaml").write_text("{}")  # every model's Production is guarded
    command = server_command(
        project=folder,
        backend_store_uri=f"sqlite:///{folder}/mlflow.db",
        artifacts_destination=str(folder / "mlartifacts"),
        port=port,
    )
    argv = list(command.argv)
    if not guarded:
        at = argv.index("--app-name")
        del argv[at : at + 2]
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, **command.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return process, f"http://127.0.0.1:{port}"


def wait(process: subprocess.Popen, url: str) -> None:
    """Return once the server answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def requests_of(url: str, run_id: str) -> dict[str, Callable[[int], None]]:
    """Return the requests that are timed, by name; each takes the number of the round."""
    session = requests.Session()

    def post(path: str, body: dict) -> None:
        session.post(f"{url}/api/2.0/mlflow/{path}", json=body, timeout=60).raise_for_status()

    def log_batch(number: int) -> None:
        metrics = [
            {"key": f"k{k}", "value": k / 7, "timestamp": number, "step": number}
            for k in range(BATCH)
        ]
        post("runs/log-batch", {"run_id": run_id, "metrics": metrics})

    def transition(number: int) -> None:
        stage = "Staging" if number % 2 else "None"
        body = {"name": NAME, "version": "2", "stage": stage, "archive_existing_versions": False}
        post("model-versions/transition-stage", body)

    def free_alias(number: int) -> None:
        body = {"name": NAME, "alias": "spare", "version": "2" if number % 2 else "3"}
        post("registered-models/alias", body)

    def search_runs(_number: int) -> None:
        body = {"experiment_ids": ["1"], "max_results": 100, "order_by": ["metrics.m0 DESC"]}
        post("runs/search", body)

    return {
        "search_runs": search_runs,
        "log_batch": log_batch,
        "transition": transition,
        "alias that no rule is about": free_alias,
    }


def measure(urls: dict[str, str], run_ids: dict[str, str], rounds: int) -> dict[str, dict]:
    """Return seconds by request and server; the first tenth of the rounds warms up."""
    calls = {kind: requests_of(url, run_ids[kind]) for kind, url in urls.items()}
    order = random.Random(0)
    taken: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in urls} for name in calls["plain"]
    }
    for number in range(rounds + rounds // 10):
        for name, seconds in taken.items():
            for kind in order.sample(sorted(urls), len(urls)):
                begin = time.perf_counter()
                calls[kind][name](number)
                if number >= rounds // 10:
                    seconds[kind].append(time.perf_counter() - begin)
    return taken


def ratio(seconds: dict[str, list[float]]) -> tuple[float, float, float]:
    """Return guarded / plain of the medians, with a 95 % bootstrap interval over the rounds."""
    guarded, plain = np.array(seconds["guarded"]), np.array(seconds["plain"])
    draws = np.random.default_rng(0).integers(0, len(plain), (2000, len(plain)))
    boot = np.median(guarded[draws], axis=1) / np.median(plain[draws], axis=1)
    low, high = np.quantile(boot, [0.025, 0.975])
    return float(np.median(guarded) / np.median(plain)), float(low), float(high)


def main() -> None:
    """Measure and print one line a request."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=300)
    rounds = arguments.parse_args().rounds
    folder = Path(tempfile.mkdtemp(prefix="moola-bench-guard-"))
    running: dict[str, tuple[subprocess.Popen, str]] = {}
    try:
        (folder / "plain").mkdir()
        run_id = seed(folder / "plain")
        shutil.copytree(folder / "plain", folder / "guarded")
        for kind in ("plain", "guarded"):
            running[kind] = start(folder / kind, guarded=kind == "guarded")
        for process, url in running.values():
            wait(process, url)
        urls = {kind: url for kind, (_, url) in running.items()}
        taken = measure(urls, dict.fromkeys(urls, run_id), rounds)
        print(f"{'request':<14}{'plain ms':>10}{'guarded ms':>12}{'ratio':>8}  95 % interval")
        for name, seconds in taken.items():
            median = {kind: 1e3 * statistics.median(s) for kind, s in seconds.items()}
            value, low, high = ratio(seconds)
            print(
                f"{name:<14}{median['plain']:>10.2f}{median['guarded']:>12.2f}{value:>8.3f}"
                f"  [{low:.3f}, {high:.3f}]"
            )
    finally:
        for process, _ in running.values():
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
