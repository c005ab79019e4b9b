"""The image for real: built without an engine, started, asked for its health, used by its user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import free_port

pytestmark = pytest.mark.slow
NAME = "localhost/moola:test"
ENV = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
NEEDED = ("buildah", "debootstrap")


def buildah(*words: str | Path, timeout: int = 120) -> str:
    done = subprocess.run(
        ["buildah", *words], env=ENV, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def container(repository: Path) -> Iterator[str]:
    if os.geteuid() or not all(map(shutil.which, NEEDED)):
        pytest.skip(f"needs root, {' and '.join(NEEDED)}")
    subprocess.run(
        [repository / "docker" / "build-without-engine", "cpu", NAME], env=ENV, check=True,
        timeout=1800,
    )  # fmt: skip
    made = buildah("from", "--pull-never", NAME).strip()
    yield made
    buildah("rm", made)
    buildah("rmi", NAME)


def test_the_image_serves_and_knows_its_user(container: str) -> None:
    """Its own command, asked by its own health check, as the user it names."""
    inside = ("run", container, "--", "sh", "-c")
    assert buildah(*inside, "id -un").strip() == "moola"
    assert re.match(r"moola \d", buildah(*inside, "moola --version"))
    port = free_port()
    health = f"http://127.0.0.1:{port}/health"
    script = f"""
        moola server --port {port} >/tmp/log 2>&1 & server=$!
        for _ in $(seq 60); do
            python -c "import urllib.request as u; print(u.urlopen('{health}').read())" && break
            sleep 1
        done 2>/dev/null
        MLFLOW_TRACKING_URI=http://127.0.0.1:{port} moola promote; echo "promote: $?"
        kill $server
    """
    said = buildah(*inside, script, timeout=300)
    assert "b'OK'" in said
    assert "promote: 2" in said  # there is nothing to promote, and the server says so
