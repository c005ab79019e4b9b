"""The main job at its smallest, for the tests: real data, a real store, seconds."""

from __future__ import annotations

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

from moola.config.pretraining import PretrainConfig
from moola.config.training import FinetuneConfig

TINY_ENCODER = PretrainConfig(
    hidden_dim=32, num_layers=1, epochs=2, windows_per_epoch=128, batch_size=64, device="cpu"
)
TINY = FinetuneConfig(
    preset="compact", epochs=3, unfreeze_after=1, patience=0, learning_rate=2e-3, device="cpu"
)


@contextmanager
def mlflow_process(*words: str, ready: str, **env: str) -> Iterator[str]:
    """Run an ``mlflow`` server command on a free local port; it is stopped by its own group.

    `ready` is the path that answers once it is up; ``{port}`` in `words` stands for the port.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *(w.format(port=port) for w in words)],
        env={**os.environ, "PATH": path, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{url}{ready}", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
