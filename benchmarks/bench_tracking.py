"""What tracking costs: a fine-tune with all of it, with none, and with a plain log_metric loop.

    python benchmarks/bench_tracking.py --epochs 60 --preset compact --repeats 3

The same fine-tune runs in turn (a) without any tracking, (b) tracked into SQLite, (c) tracked into
an ``mlflow server`` with its default four workers. "None" trains, predicts, calibrates and
measures, and writes and draws nothing; "tracked" is what `moola train` does, with proof, plots,
model and registration. Beside them stands what the same history costs by ``mlflow.log_metric`` in a
loop. Exits with 1 if tracking costs more than 3 % on SQLite or 5 % on the server.
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
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import mlflow

from moola.config.training import FinetuneConfig
from moola.data.registry import DataRegistry
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.temperature import apply_temperature
from moola.steps.calibrate import calibrate
from moola.steps.finetune import finetune
from moola.training.finetune import finetune as train_model

BARS = Path(__file__).resolve().parents[1] / "data" / "bars"
MAX_SQLITE_SHARE, MAX_SERVER_SHARE = 0.03, 0.05
WORKERS = 4


def untracked(config: FinetuneConfig) -> list[dict[str, Any]]:
    """Train, calibrate and measure; return the history."""
    data = DataRegistry("data").load_labeled(config.labeled, config.split)
    state = Path("artifacts/resume/untracked.pt")
    result = train_model(
        config,
        data.X_train,
        data.y_train,
        validation=(data.X_val, data.y_val),
        device="cpu",
        state_path=state,
    )
    raw = result.model.predict_proba(data.X_val)
    compute_metrics(data.y_val, apply_temperature(raw, calibrate(data, raw).temperature))
    state.unlink(missing_ok=True)
    return list(result.history)


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


def measure(config: FinetuneConfig, repeats: int) -> dict[str, Any]:
    """Seconds of each kind, in turn, so that load hits all alike."""
    stores = {"sqlite": f"sqlite:///{Path.cwd()}/mlflow.db"}
    with mlflow_server(Path.cwd()) as url:
        stores["server"] = url

        def tracked(store: str) -> None:
            os.environ["MLFLOW_TRACKING_URI"] = stores[store]
            finetune(config)

        short = replace(config, epochs=1, unfreeze_after=0)
        history = untracked(short)
        for uri in stores.values():  # what a process does once: imports, caches, tables
            os.environ["MLFLOW_TRACKING_URI"] = uri
            finetune(short)
            log_metric_loop(uri, history)
        found: dict[str, list[float]] = {"none": [], "sqlite": [], "server": []}
        for _ in range(repeats):
            began = time.perf_counter()
            history = untracked(config)
            found["none"].append(time.perf_counter() - began)
            for store in stores:
                found[store].append(seconds(lambda store=store: tracked(store)))
        loops = {k: seconds(lambda k=k: log_metric_loop(stores[k], history)) for k in stores}
    figures: dict[str, Any] = {f"{k}_s": statistics.median(v) for k, v in found.items()}
    for store in stores:
        pairs = zip(found[store], found["none"], strict=True)
        extra = statistics.median(a - b for a, b in pairs)
        figures |= {f"{store}_extra_s": extra, f"{store}_share": extra / figures["none_s"]}
        figures[f"{store}_loop_s"] = loops[store]
    figures["num_metrics"] = sum(len(row) - 1 for row in history)
    return figures


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    config = FinetuneConfig(preset=options.preset, epochs=options.epochs, patience=0, device="cpu")
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="moola-bench-") as folder:
        os.chdir(folder)
        try:
            Path("data").mkdir()
            Path("data/bars").symlink_to(BARS)
            DataRegistry("data").build()
            figures = measure(config, options.repeats)
        finally:
            os.chdir(before)
    print(
        f"{options.epochs} epochs, {options.preset} preset, no tracking: {figures['none_s']:.2f} s"
    )
    for store, limit in (("sqlite", MAX_SQLITE_SHARE), ("server", MAX_SERVER_SHARE)):
        print(
            f"  tracked, {store:<7} {figures[f'{store}_s']:8.2f} s, "
            f"{figures[f'{store}_extra_s']:+.2f} s = {figures[f'{store}_share']:+.1%} "
            f"(at most {limit:.0%}); its {figures['num_metrics']} metrics alone by log_metric: "
            f"{figures[f'{store}_loop_s']:.2f} s"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    cheap = figures["sqlite_share"] <= MAX_SQLITE_SHARE
    return 0 if cheap and figures["server_share"] <= MAX_SERVER_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
