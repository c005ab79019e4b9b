"""What an answer costs: bare module, pyfunc, `mlflow models serve`, `moola serve`.

    python benchmarks/bench_serve.py --preset compact

Trains a small classifier, registers it in a store of its own, and asks it by every route with 1
and 64 windows a request and 1 and 8 clients. Prints one line a measurement and, with ``--json
FILE``, writes the figures. Clients and server share the machine; every route has one torch thread,
which is the fastest for nets of this size. Exits with 1 if `moola serve`
answers 64 windows in Arrow later than 2 x the bare call, 64 windows in JSON not 2 x as fast as
`mlflow models serve`, or one window with a p99 above 5 x its p50.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OMP_NUM_THREADS"] = "1"

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mlflow import MlflowClient

from moola.config.training import FinetuneConfig
from moola.models.enhanced_simple_lstm import PRESETS, EnhancedSimpleLSTMModel
from moola.serving.pyfunc import log_model
from moola.training.finetune import build_model
from moola.training.stored_config import TRAINED_AS

BARS = Path(__file__).resolve().parents[1] / "data" / "bars" / "btcusd_1h.parquet"
NAME, CLASSES, WINDOW_BARS = "EnhancedSimpleLSTM", ("consolidation", "expansion"), 105
JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
BATCHES, CLIENTS = (1, 64), (1, 8)
MAX_OF_BARE, MIN_OF_MLFLOW, MAX_TAIL = 2.0, 2.0, 5.0


def real_windows(num: int) -> np.ndarray:
    """Return the latest windows of the shipped bars, shape (num, 105, 4)."""
    table = pq.read_table(BARS, columns=["open", "high", "low", "close"]).to_pandas()
    ohlc = np.array(table, dtype=np.float32)
    ohlc[:, 1], ohlc[:, 2] = ohlc.max(axis=1), ohlc.min(axis=1)
    last = len(ohlc) - WINDOW_BARS
    return np.stack([ohlc[last - 6 * k : last - 6 * k + WINDOW_BARS] for k in range(num)])


def make_version(folder: Path, preset: str) -> tuple[EnhancedSimpleLSTMModel, str]:
    """Train for one epoch, register as version 1, and return model and tracking URI."""
    config = FinetuneConfig(preset=preset, epochs=1, patience=0, device="cpu")
    model = build_model(config, "cpu").fit(real_windows(64), np.arange(64) % 2)
    checkpoint = folder / "checkpoint"
    stated = {
        "temperature": 1.0,
        "class_names": list(CLASSES),
        "conformal": {"threshold": 0.4, "level": 0.9, "num_windows": 64},
        TRAINED_AS: config.to_dict(),
    }
    model.save(checkpoint, extra=stated)
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    location = (folder / "mlartifacts").as_uri()
    experiment = MlflowClient(uri).create_experiment("bench", artifact_location=location)
    with mlflow.start_run(experiment_id=experiment):
        info = log_model(checkpoint, window_bars=WINDOW_BARS, class_names=CLASSES)
    mlflow.register_model(f"models:/{info.model_id}", NAME, await_registration_for=None)
    return model, uri


def clock(call: Callable[[], Any], num: int) -> list[float]:
    """Return the seconds of `num` calls after a few that do not count."""
    for _ in range(max(3, num // 10)):
        call()
    seconds = []
    for _ in range(num):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds


def clock_clients(
    address: str, body: bytes, content_type: str, *, clients: int, num: int
) -> tuple[list[float], float]:
    """Return the seconds of all requests of several clients, and of the whole."""
    times: list[float] = []

    def ask(count: int, into: list[float]) -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        for _ in range(count):
            begin = time.perf_counter()
            connection.request("POST", "/invocations", body, {"content-type": content_type})
            response = connection.getresponse()
            response.read()
            into.append(time.perf_counter() - begin)
            assert response.status == 200
        connection.close()

    ask(max(5, num // 10), [])
    threads = [threading.Thread(target=ask, args=(num // clients, times)) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.perf_counter() - begin


@contextmanager
def server(*words: str, uri: str) -> Iterator[tuple[str, float, int]]:
    """Run a server on a free port; yields its address, start-up seconds and process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *(w.format(port=port) for w in words)],
        env={**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.perf_counter() > begin + 120:
                    raise SystemExit(f"{' '.join(words[:2])} does not start") from None
                time.sleep(0.02)
        yield f"127.0.0.1:{port}", time.perf_counter() - begin, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def resident_mib(group: int) -> float:
    """Return the resident memory of all processes of a group."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                text = (folder / "status").read_text()
                total += int(text.split("VmRSS:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return total / 1024


def as_json(X: np.ndarray) -> bytes:
    """Return MLflow's JSON body."""
    return json.dumps({"inputs": X.tolist()}).encode()


def as_arrow(X: np.ndarray) -> bytes:
    """Return the Arrow body of `moola serve`."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), X[0].size)
    table, sink = pa.table({"window": column}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


class Table:
    """Measurements, printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        print(f"{'route':<26}{'batch':>6}{'clients':>8}{'p50 ms':>9}{'p99 ms':>9}{'windows/s':>11}")

    def add(self, route: str, batch: int, clients: int, seconds: list[float], whole: float) -> None:
        """Add one line."""
        p50, p99 = (1e3 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
        rate = batch * len(seconds) / whole
        row = {"route": route, "batch": batch, "clients": clients}
        self.rows.append({**row, "p50_ms": p50, "p99_ms": p99, "windows_per_s": rate})
        print(f"{route:<26}{batch:>6}{clients:>8}{p50:>9.2f}{p99:>9.2f}{rate:>11,.0f}", flush=True)

    def p50(self, route: str, batch: int) -> float:
        """Return the median of one client."""
        return float(self._row(route, batch)["p50_ms"])

    def tail(self, route: str, batch: int) -> float:
        """Return p99 / p50 of one client."""
        row = self._row(route, batch)
        return float(row["p99_ms"] / row["p50_ms"])

    def _row(self, route: str, batch: int) -> dict[str, Any]:
        return next(
            r for r in self.rows if (r["route"], r["batch"], r["clients"]) == (route, batch, 1)
        )


def measure(folder: Path, preset: str, num: int) -> tuple[Table, dict[str, Any]]:
    """Measure every route."""
    model, uri = make_version(folder, preset)
    pyfunc = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    X = real_windows(max(BATCHES))
    table, servers = Table(), {}
    counts = {1: num, 64: max(24, num // 5)}
    model.net_.eval()
    for batch in BATCHES:
        x, f = model._inputs(X[:batch])
        with torch.inference_mode():
            seconds = clock(lambda x=x, f=f: model.net_(x, f), counts[batch])
        table.add("bare module", batch, 1, seconds, sum(seconds))
        seconds = clock(lambda batch=batch: pyfunc.predict(X[:batch]), counts[batch])
        table.add("pyfunc.predict", batch, 1, seconds, sum(seconds))
    mlflow_words = (
        "mlflow",
        "models",
        "serve",
        "-m",
        f"models:/{NAME}/1",
        "--env-manager",
        "local",
    )
    moola_words = ("moola", "serve", "--version", "1", "--ledger", uri)
    routes = {
        "mlflow models serve": ((*mlflow_words, "-p", "{port}"), {"JSON": as_json}),
        "moola serve": ((*moola_words, "--port", "{port}"), {"JSON": as_json, "Arrow": as_arrow}),
    }
    for name, (words, forms) in routes.items():
        with server(*words, uri=uri) as (address, started, group):
            for form, encode in forms.items():
                for batch in BATCHES:
                    content_type = JSON if form == "JSON" else ARROW
                    for clients in CLIENTS:
                        seconds, whole = clock_clients(
                            address, encode(X[:batch]), content_type,
                            clients=clients, num=counts[batch],
                        )  # fmt: skip
                        table.add(f"{name} {form}", batch, clients, seconds, whole)
            servers[name] = {"start_s": started, "resident_mib": resident_mib(group)}
            print(f"{name}: up after {started:.1f} s, {resident_mib(group):.0f} MiB")
    return table, servers


def main() -> None:
    """Measure, print, and hold the figures against the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="compact")
    parser.add_argument("--requests", type=int, default=300, help="of one window each")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{arguments.preset}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads")
    with tempfile.TemporaryDirectory() as folder:
        table, servers = measure(Path(folder), arguments.preset, arguments.requests)
    bars = {
        "Arrow at 64 / bare": (table.p50("moola serve Arrow", 64) / table.p50("bare module", 64)),
        "mlflow / moola JSON at 64": (
            table.p50("mlflow models serve JSON", 64) / table.p50("moola serve JSON", 64)
        ),
        "p99 / p50 at 1, JSON": table.tail("moola serve JSON", 1),
        "p99 / p50 at 1, Arrow": table.tail("moola serve Arrow", 1),
    }
    for name, value in bars.items():
        print(f"{name}: {value:.2f}")
    if arguments.json:
        content = {"rows": table.rows, "servers": servers, "bars": bars}
        arguments.json.write_text(json.dumps(content, indent=2))
    held = (
        bars["Arrow at 64 / bare"] <= MAX_OF_BARE
        and bars["mlflow / moola JSON at 64"] >= MIN_OF_MLFLOW
        and max(table.tail(f"moola serve {form}", 1) for form in ("JSON", "Arrow")) <= MAX_TAIL
    )
    sys.exit(not held)


if __name__ == "__main__":
    main()
