"""``mlflow models serve`` answers what the model answers in process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from job_kit import TINY

from moola.config import names
from moola.steps.finetune import finetune


@contextmanager
def served(uri: str, store: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binaries = Path(sys.executable).parent
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local",
         "-h", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "MLFLOW_TRACKING_URI": store,
             "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
             "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def test_served_probabilities_equal_in_process_ones(project: Path, data_root: Path) -> None:
    summary = finetune(TINY)
    X = np.load(data_root / "labeled_windows" / "v1" / "X_ohlc.npy")[[0, 500, -1]]
    expected = summary.result.model.predict_proba(X)
    assert summary.calibration.temperature == 1.0
    uri = f"models:/{names.REGISTERED_MODEL}/{summary.version}"
    with served(uri, f"sqlite:///{project}/mlflow.db") as url:
        request = urllib.request.Request(
            f"{url}/invocations",
            data=json.dumps({"inputs": X.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            rows = json.loads(response.read())["predictions"]
    answered = [[r["probability_consolidation"], r["probability_expansion"]] for r in rows]
    assert np.abs(np.array(answered) - expected).max() < 1e-6
    assert {r["model_version"] for r in rows} == {summary.version}
    assert [r["label"] for r in rows] == expected.argmax(axis=1).tolist()
