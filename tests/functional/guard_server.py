"""A real guarded server on a free port, stopped by its own process id and leaving nothing."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient
from process_kit import end_group, free_port, wait_until_up

import moola
from moola.config.promotion import TRUSTED_FOLDER
from moola.promotion.evidence.keys import (
    ensure_signing_key,
    key_id,
    load_signing_key,
    revoke,
    trust,
)
from moola.promotion.guard.server import server_command

USER, PASSWORD = "admin", "a-long-enough-password"
ENTRY_POINT = "[mlflow.app]\nmoola = moola.promotion.guard.server:create_app\n"


class Server:
    """A running server, its project folder and the keys it knows."""

    def __init__(
        self, folder: Path, port: int, *, backend: str, auth: bool, argv: tuple[str, ...], env: dict
    ):
        self.folder, self.port, self.backend, self.auth = folder, port, backend, auth
        self._argv, self.env = argv, env
        self.artifacts = argv[argv.index("--artifacts-destination") + 1]
        self._process: subprocess.Popen | None = None
        self.url = f"http://127.0.0.1:{port}"
        self.key = load_signing_key(folder, env={})
        self.revoked_key = Ed25519PrivateKey.generate()
        trust(folder / TRUSTED_FOLDER, self.revoked_key.public_key())
        revoke(folder / TRUSTED_FOLDER, key_id(self.revoked_key.public_key()))

    def start(self) -> None:
        """Start the server and return once it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until_up(self._process, f"{self.url}/health", log=self.folder / "server.log")

    def kill(self) -> None:
        """End the server and its workers at once, as ``kill -9`` does."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End the server's own process group, which nothing else belongs to."""
        assert self._process is not None
        end_group(self._process)

    @property
    def credentials(self) -> tuple[str, str] | None:
        return (USER, PASSWORD) if self.auth else None

    def client(self) -> MlflowClient:
        return MlflowClient(self.url)

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Send a request whose path goes out exactly as written."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        every = {"Content-Type": "application/json", **(headers or {})}
        if self.auth:
            import base64

            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            every["Authorization"] = f"Basic {pair}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, None if body is None else data, every)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()


@contextmanager
def running(
    folder: Path,
    *,
    backend: str | None = None,
    policy: str | None = "",
    auth: bool = False,
    artifacts: str | None = None,
    more_env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a guarded server in `folder`, or a plain one for `policy` None; stop it at the end."""
    ensure_signing_key(folder)
    backend = backend or f"sqlite:///{folder}/mlflow.db"
    info = folder / "site" / "moola_entry-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moola-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    (folder / "policy.yaml").write_text(policy or "{}")
    port = free_port()
    command = server_command(
        project=folder,
        backend_store_uri=backend,
        artifacts_destination=artifacts or str(folder / "mlartifacts"),
        port=port,
        policy_file=folder / "policy.yaml",
        auth=auth,
    )
    argv = list(command.argv)
    if policy is None:
        at = argv.index("--app-name")
        argv[at : at + 2] = ["--app-name", "basic-auth"] if auth else []
    env = {**os.environ, **command.env}
    env["PYTHONPATH"] = os.pathsep.join([str(info.parent), str(Path(moola.__file__).parents[1])])
    if auth:
        (folder / "auth.ini").write_text(
            "[mlflow]\ndefault_permission = EDIT\n"
            f"database_uri = sqlite:///{folder}/auth.db\n"
            f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        env["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "auth.ini")
        env["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "not-a-secret-in-a-test"
    env |= more_env or {}
    server = Server(folder, port, backend=backend, auth=auth, argv=tuple(argv), env=env)
    try:
        server.start()
        yield server
    finally:
        server.stop()
