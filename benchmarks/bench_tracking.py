"""What tracking costs: a fine-tune with all of it against none, and a plain log_metric loop.

    python benchmarks/bench_tracking.py --epochs 60 --preset compact --repeats 3

A fine-tune is tracked into SQLite and into an ``mlflow server`` with its default four workers.
"None" is the same training just before: it loads, trains, predicts, calibrates and measures, and
writes and draws nothing. "Tracked" is what `moola train` does, with figures and proof after every
epoch, plots, model and registration. Two trainings differ by some per cent by themselves, so
repeat them. Beside them stands what the same history costs by ``mlflow.log_metric`` in a loop.
Exits with 1 if tracking costs more than 3 % on SQLite or 5 % on the server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import mlflow

from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.temperature import apply_temperature
from moola.judging.calibrate import calibrate
from moola.steps.finetune import finetune
from moola.training.finetune import finetune as train_model

BARS = Path(__file__).resolve().parents[1] / "data" / "bars"
LIMITS = {"sqlite": 0.03, "server": 0.05}  # share of the untracked wall time
WORKERS = 4


def untracked(config: FinetuneConfig) -> None:
    """Load, train, predict, calibrate and measure; write and draw nothing."""
    data = DataStore("data").load_labeled(config.labeled, config.split)
    validation = (data.X_val, data.y_val)
    result = train_model(config, data.X_train, data.y_train, validation=validation, device="cpu")
    raw = result.model.predict_proba(data.X_val)
    compute_metrics(data.y_val, apply_temperature(raw, calibrate(data, raw).temperature))


def log_metric_loop(uri: str, history: list[dict[str, Any]]) -> None:
    """Log a history the plain way: one call a metric and epoch."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("plain")
    with mlflow.start_run():
        for row in history:
            for key, value in row.items():
                if key != "epoch":
                    mlflow.log_metric(key, float(value), step=int(row["epoch"]))


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run an MLflow server with its default number of workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", str(WORKERS)]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    words += ["--artifacts-destination", f"{folder}/server-artifacts"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(config: FinetuneConfig, stores: dict[str, str], repeats: int) -> dict[str, Any]:
    """Measure what tracking adds to the same fine-tune on each store, in turn."""
    short = replace(config, epochs=2, unfreeze_after=1)
    for uri in stores.values():  # what a process does once: imports, caches, the store's tables
        os.environ["MLFLOW_TRACKING_URI"] = uri
        finetune(short)
    untracked(short)
    found: dict[str, list[dict[str, float]]] = {store: [] for store in stores}
    for _ in range(repeats):
        for store, uri in stores.items():
            none = seconds(partial(untracked, config))
            os.environ["MLFLOW_TRACKING_URI"] = uri
            began = time.perf_counter()
            summary = finetune(config)
            wall = time.perf_counter() - began
            found[store].append({"wall_s": wall, "none_s": none, "extra_s": wall - none})
    history = list(summary.result.history)
    figures: dict[str, Any] = {"num_metrics": sum(len(row) - 1 for row in history)}
    for store, uri in stores.items():
        medians = {k: statistics.median(r[k] for r in found[store]) for k in found[store][0]}
        share = statistics.median(r["extra_s"] / r["none_s"] for r in found[store])
        loop = seconds(partial(log_metric_loop, uri, history))
        figures[store] = {**medians, "share": share, "loop_s": loop}
    return figures


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--preset", default="matched")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--stores", nargs="+", choices=tuple(LIMITS), default=list(LIMITS))
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    config = FinetuneConfig(preset=options.preset, epochs=options.epochs, patience=0, device="cpu")
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="moola-bench-") as folder:
        os.chdir(folder)
        try:
            Path("data").mkdir()
            Path("data/bars").symlink_to(BARS)
            DataStore("data").build()
            with mlflow_server(Path.cwd()) as url:
                known = {"sqlite": f"sqlite:///{Path.cwd()}/mlflow.db", "server": url}
                chosen = {store: known[store] for store in options.stores}
                figures = measure(config, chosen, options.repeats)
        finally:
            os.chdir(before)
    print(f"{options.epochs} epochs, {options.preset} preset")
    for store in options.stores:
        row = figures[store]
        print(
            f"  {store:<7} none {row['none_s']:.2f} s, tracked {row['wall_s']:.2f} s: "
            f"{row['extra_s']:+.2f} s = {row['share']:+.2%} (at most {LIMITS[store]:.0%}); its "
            f"{figures['num_metrics']} metrics alone by log_metric: {row['loop_s']:.2f} s"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(any(figures[store]["share"] > LIMITS[store] for store in options.stores))


if __name__ == "__main__":
    sys.exit(main())
