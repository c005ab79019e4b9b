"""A server that can be killed, a proxy that misbehaves, and a run whose content is known."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from process_kit import free_port, wait_until_up

from moola.tracking.lineage import dataset_input
from moola.tracking.mlflow_run import child_run, tracked_run

EXPERIMENT = "moola-faults"
PARAMS = {f"p{i}": i for i in range(12)}
FIGURES = {"accuracy": 0.75, "log_loss": 0.5}
HISTORY = [{"epoch": e, "loss": 1 / (e + 1), "val_loss": 2 / (e + 1)} for e in range(60)]
FILES = {f"folder/{i}.bin": bytes([i]) * 1000 for i in range(4)}
ROWS = [{"gate": "0 data", "verdict": "passed"}, {"gate": "1 baseline", "verdict": "failed"}]


class MlflowServer:
    """A real ``mlflow server`` over one SQLite file, on one port however often it is started."""

    def __init__(self, folder: Path, workers: int = 1):
        self.folder = folder
        self.workers = workers
        self.port = free_port()
        self.store = f"sqlite:///{folder}/server.db"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", str(self.workers), "--backend-store-uri", self.store]
        words += ["--artifacts-destination", f"{self.folder}/server-artifacts"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until_up(self._process, f"http://127.0.0.1:{self.port}/health")

    def poll(self) -> int | None:
        return None if self._process is not None and self._process.poll() is None else 0

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Proxy:
    """Passes requests on, or does what `rule` says of the request with this number.

    ``pass``; ``500``; ``reset`` (cut off before the server hears of it); ``lost`` (the server does
    it, nobody hears of that); ``hang`` (no answer until `release`, then done); ``kill`` (the server
    dies).
    """

    def __init__(self, server: MlflowServer):
        self.rule: Callable[[int], str] = lambda number: "pass"
        self.count = 0
        self._release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.count += 1
                action = outer.rule(outer.count)
                if action == "kill":
                    server.kill()
                if action == "hang":
                    outer._release.wait(60)
                if action == "500":
                    self._answer(500, b"out of order", {})
                elif action in ("reset", "kill") or not self._forward(body, action):
                    self.close_connection = True
                    with suppress(OSError):  # the client may have given up
                        self.connection.shutdown(socket.SHUT_RDWR)

            def _forward(self, body: bytes, action: str) -> bool:
                upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    content = answer.read()
                except OSError:
                    return False
                finally:
                    upstream.close()
                if action == "lost":
                    return False
                try:
                    self._answer(answer.status, content, dict(answer.getheaders()))
                except OSError:
                    return False
                return True

            def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name in ("Content-Type",):
                    if name in headers:
                        self.send_header(name, headers[name])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def misbehave(self, rule: Callable[[int], str]) -> None:
        """Follow a rule from now on, counting from 1."""
        self.count, self.rule = 0, rule
        self._release.clear()

    def behave(self) -> None:
        """Pass everything on again, what hangs included."""
        self.rule = lambda number: "pass"
        self._release.set()

    def close(self) -> None:
        self.behave()
        self._http.shutdown()
        self._http.server_close()


def known_run(uri: str, name: str) -> float:
    """Log a run with two children as a step does; return the seconds it took."""
    began = time.perf_counter()
    data = dataset_input(
        name="labeled_windows/v1", sha256="ab" * 32, source="bars/x", context="train", shape=(9, 4)
    )
    with tracked_run(
        step="test", experiment=EXPERIMENT, name=name, params=PARAMS, tracking_uri=uri
    ) as run:
        run.log_inputs([data])
        run.log_history(HISTORY)
        run.log_metrics(FIGURES, dataset=data)
        for path, content in FILES.items():
            run.log_bytes(path, content)
        run.log_json("manifest.json", {"run_id": run.run_id})
        run.log_image("reliability", np.zeros((4, 5, 3), dtype=np.uint8))
        run.log_table("gates.json", ROWS)
        for gate in range(2):
            with child_run(run, f"gate-{gate}", tags={"gate": gate}, metrics=FIGURES) as child:
                child.log_bytes("report.bin", bytes([gate]))
        run.set_tags({"moola.verdict": "passed"})
    return time.perf_counter() - began


def check_known_run(store: str, name: str, began_ms: int) -> None:
    """Assert that a store holds the run whole and once."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    assert len(runs) == 1, [r.info for r in runs]
    (run,) = runs
    identity = run.info.run_id
    assert run.info.status == "FINISHED"
    assert began_ms <= run.info.start_time <= run.info.end_time <= began_ms + 60_000
    assert run.data.params == {k: str(v) for k, v in PARAMS.items()}
    assert run.data.tags["moola.verdict"] == "passed"
    assert run.data.tags["mlflow.loggedImages"] == "True"
    assert set(run.data.metrics) == {"loss", "val_loss", *FIGURES}
    for key in ("loss", "val_loss"):
        history = client.get_metric_history(identity, key)
        assert [(m.step, m.value) for m in history] == [(r["epoch"], r[key]) for r in HISTORY]
    for key, value in FIGURES.items():
        assert [m.value for m in client.get_metric_history(identity, key)] == [value]
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == [("ab" * 32)[:36]]
    # read from the disk: the store's own artifact addresses lead through the server
    folders = list(Path(store.removeprefix("sqlite:///")).parent.rglob(f"{identity}/artifacts"))
    assert len(folders) == 1
    files = {p.relative_to(folders[0]).as_posix(): p for p in folders[0].rglob("*") if p.is_file()}
    images = [path for path in files if path.startswith("images/")]
    assert sorted(p.rpartition(".")[2] for p in images) == ["png", "webp"]
    found = {path for path in files if path not in images and path != "git/uncommitted.diff"}
    assert found == {*FILES, "manifest.json", "gates.json", "environment.json"}
    for path, content in FILES.items():
        assert files[path].read_bytes() == content
    assert json.loads(files["manifest.json"].read_text()) == {"run_id": identity}
    assert len(json.loads(files["gates.json"].read_text())["data"]) == len(ROWS)
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{identity}'")
    assert sorted(c.info.run_name for c in children) == ["gate-0", "gate-1"]
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.metrics == FIGURES
