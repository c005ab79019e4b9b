"""Real services for tests and benchmarks: PostgreSQL, an S3 store, the server's start script.

They run as Debian's and PyPI's own programs on free ports of this machine, through the very
scripts the image runs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from guard_server import ENTRY_POINT
from process_kit import end_group, free_port, wait_until_up

import moola
from moola.promotion.evidence.keys import ensure_signing_key

DOCKER = Path(__file__).resolve().parents[2] / "docker"


class Postgres:
    """A PostgreSQL server of its own, with its data in a temporary folder."""

    def __init__(self, *, durable: bool = False):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise FileNotFoundError("PostgreSQL is not installed (Debian package postgresql)")
        self.binaries = found[-1].parent
        self.folder = Path(tempfile.mkdtemp(prefix="moola-pg-", dir="/tmp"))
        self.port = free_port()
        self._as_user: dict[str, object] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            ids = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            self._as_user = ids
        self._options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._options += "" if durable else " -c fsync=off"
        self.url = f"postgresql+psycopg://moola@127.0.0.1:{self.port}/moola"

    @property
    def env(self) -> dict[str, str]:
        """The variables by which libpq's programs and the start script find the database."""
        path = f"{self.binaries}{os.pathsep}{os.environ['PATH']}"
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "moola",
            "PGDATABASE": "moola",
            "PATH": path,
        }

    def run(self, program: str, *words: str | Path) -> None:
        """Run one of PostgreSQL's programs as its user."""
        subprocess.run(
            [self.binaries / program, *words],
            check=True, capture_output=True, cwd=self.folder, **self._as_user,  # type: ignore[call-overload]
        )  # fmt: skip

    def control(self, *words: str) -> None:
        """Start, stop or restart the server and wait until that is done."""
        self.run(
            "pg_ctl", "-D", "data", "-o", self._options, "-l", self.folder / "log", "-w", *words
        )

    def create_database(self) -> None:
        """Create the empty database ``moola``."""
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "moola", "moola")


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Start a PostgreSQL server with an empty database; stop it and delete its data at the end."""
    server = Postgres(durable=durable)
    try:
        server.run("initdb", "-D", "data", "-A", "trust", "-U", "moola", "-N")
        server.control("start")
        try:
            server.create_database()
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(server.folder)


@contextmanager
def postgres_or_skip() -> Iterator[Postgres]:
    """Start a PostgreSQL server, or skip the test where there is none; with CI set, fail."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs the extra postgres (psycopg)")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres())
        except FileNotFoundError as error:
            assert not os.environ.get("CI"), "PostgreSQL must be installed where CI is set"
            pytest.skip(str(error))
        yield server


@contextmanager
def process(
    argv: list[str | Path], *, ready: str, cwd: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own until the block ends."""
    log = cwd / "process.log"
    with log.open("wb") as handle:
        running = subprocess.Popen(
            argv, cwd=cwd, env={**os.environ, **env}, stdout=handle, stderr=handle,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until_up(running, ready, log=log)
        yield running
    finally:
        end_group(running)


@contextmanager
def s3_store(folder: Path) -> Iterator[dict[str, str]]:
    """Start an S3 store (moto) with an empty bucket ``moola``; yield the variables it needs."""
    port = free_port()
    env = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MOOLA_BUCKET": "s3://moola/artifacts",
    }
    folder.mkdir(parents=True, exist_ok=True)
    moto = [sys.executable, "-c", "from moto.server import main; main()"]
    argv: list[str | Path] = [*moto, "-H", "127.0.0.1", "-p", str(port)]
    with process(argv, ready=env["MLFLOW_S3_ENDPOINT_URL"], cwd=folder, env={}):
        put = urllib.request.Request(f"{env['MLFLOW_S3_ENDPOINT_URL']}/moola", method="PUT")
        urllib.request.urlopen(put, timeout=10).close()
        yield env


@contextmanager
def guarded_server(
    folder: Path, env: Mapping[str, str], *, command: list[str | Path] | None = None
) -> Iterator[str]:
    """Start the guarded server as the image does, by ``docker/start-server``; yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    ensure_signing_key(folder)
    info = folder / "site" / "moola_entry-0.dist-info"
    if not info.exists():
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moola-entry\nVersion: 0\n")
        (info / "entry_points.txt").write_text(ENTRY_POINT)
    moola_command = folder / "moola"
    moola_command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m moola "$@"\n')
    moola_command.chmod(0o755)
    port = free_port()
    own = {
        "MOOLA": str(moola_command),
        "MOOLA_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(info.parent), str(Path(moola.__file__).parents[1])]),
    }
    argv = command or [DOCKER / "start-server"]
    with process(argv, ready=f"http://127.0.0.1:{port}/health", cwd=folder, env={**env, **own}):
        yield f"http://127.0.0.1:{port}"
