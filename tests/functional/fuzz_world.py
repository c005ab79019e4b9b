"""The guarded world under fuzzing: its targets, what an answer may not be, and a plain twin."""

from __future__ import annotations

import base64
import http.client
import re
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_kit import Fuzzer, Sent
from fuzz_routes import routes_of
from guard_server import PASSWORD, Server, running
from guard_state import changes
from guard_world import KEPT, World
from mlflow.exceptions import MlflowException
from promotion_kit import NAME, evaluate, make_version

from moola.errors import MoolaError

SECONDS_TO_ANSWER = 30
MALLORY = "mallory"
# MLflow fetches a list of models from the internet, where a test has nothing to look for.
OUTSIDE = ("/ajax-api/3.0/mlflow/gateway/supported-models",)
_API = ("/api/", "/ajax-api/", "/moola/api/", "/v1/", "/gateway/", "/graphql")


@dataclass(frozen=True)
class Answer:
    """Status and the beginning of a body."""

    status: int
    text: str


class Wire:
    """A connection that sends requests exactly as they are written."""

    def __init__(self, port: int, credentials: tuple[str, str] | None = None):
        self.port = port
        self._more: dict[str, str] = {}
        if credentials:
            pair = base64.b64encode(":".join(credentials).encode()).decode()
            self._more["Authorization"] = f"Basic {pair}"

    def send(self, sent: Sent) -> Answer:
        """Send a request; status 0 stands for no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS_TO_ANSWER)
        headers = {k: v for k, v in {**sent.headers, **self._more}.items() if v}
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read
                connection.request(sent.method, sent.path, sent.body, headers)
            answer = connection.getresponse()
            text = answer.read(20_000).decode(errors="replace")
            return Answer(answer.status, text)
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, f"{type(error).__name__}: {error}")
        finally:
            connection.close()


class Twin:
    """A plain server over a copy of the guarded one's database, started when it is first asked."""

    def __init__(self, server: Server, folder: Path, stack: ExitStack, policy_of_auth: bool):
        self._server, self._folder, self._stack = server, folder, stack
        self._auth, self._number = policy_of_auth, 0
        self._wire: Wire | None = None
        self.seconds = 0.0  # spent on it so far

    def fails_too(self, sent: Sent, credentials: tuple[str, str] | None) -> bool:
        """Return whether a plain server answers a request with a failure of its own as well."""
        begin = time.monotonic()
        failed = self._wire is not None and self._wire.send(sent).status >= 500
        if not failed:
            self._stack.close()  # what is there now may hang on what was made since
            self._wire = self._started(credentials)
            failed = self._wire.send(sent).status >= 500
        self.seconds += time.monotonic() - begin
        return failed

    def _started(self, credentials: tuple[str, str] | None) -> Wire:
        self._number += 1
        folder = self._folder / f"twin-{self._number}"
        folder.mkdir(parents=True)
        backend = copied(self._server, folder)
        artifacts = self._server.artifacts
        if not artifacts.startswith("s3:"):
            shutil.copytree(artifacts, folder / "mlartifacts")
            artifacts = str(folder / "mlartifacts")
        env = {k: v for k, v in self._server.env.items() if k.startswith(("AWS_", "MLFLOW_S3"))}
        plain = running(
            folder, backend=backend, policy=None, auth=self._auth, artifacts=artifacts, more_env=env
        )
        return Wire(self._stack.enter_context(plain).port, credentials)


def copied(server: Server, folder: Path) -> str:
    """Copy the database of a running server, and that of its users; return the copy's address."""
    users = server.folder / "auth.db"
    if users.exists():
        _copy_sqlite(users, folder / "auth.db")
    if server.backend.startswith("sqlite"):
        _copy_sqlite(Path(server.backend.removeprefix("sqlite:///")), folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"
    source = server.backend.replace("+psycopg", "")
    base, _, _ = source.rpartition("/")
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    name = folder.name.replace("-", "_")
    dump = subprocess.run([binaries / "pg_dump", source], check=True, capture_output=True).stdout
    subprocess.run([binaries / "psql", "-q", source, "-c", f"CREATE DATABASE {name}"], check=True)
    subprocess.run(
        [binaries / "psql", "-q", f"{base}/{name}"], input=dump, check=True, capture_output=True
    )
    return f"{server.backend.rpartition('/')[0]}/{name}"


def _copy_sqlite(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as a, closing(sqlite3.connect(target)) as b:
        a.backup(b)


@dataclass
class Report:
    """What a time of fuzzing gave."""

    routes: set[str]
    sent: int = 0
    statuses: Counter = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)
    of_mlflow: dict[str, str] = field(default_factory=dict)

    def find(self, kind: str, request: str) -> None:
        """Note a finding of some kind and the request that made it."""
        self.findings.setdefault(kind, []).append(request)

    def __str__(self) -> str:
        lines = [f"{self.sent} requests; statuses {dict(sorted(self.statuses.items()))}"]
        for kind, requests in self.findings.items():
            lines += [f"FINDING {kind}, by {len(requests)} requests, the first of which are"]
            lines += [f"    {request}" for request in requests[:3]]
        lines += [f"a plain server fails too: {k}: {v}" for k, v in self.of_mlflow.items()]
        return "\n".join(lines)


class Ground:
    """A `World`, and what a stranger may own in it."""

    def __init__(self, world: World):
        self.world = world
        self.own = world.client.create_experiment("a stranger's")
        self.own_run = world.client.create_run(self.own).info.run_id
        self.state = world.frozen()

    def targets(self) -> Mapping[str, tuple[str, ...]]:
        """Return values of what is guarded, and of what is the stranger's own, by kind."""
        world, frozen = self.world, f"{self.world.root}/model"
        artifacts = world.server.artifacts.rstrip("/")
        base = artifacts if artifacts.startswith("s3:") else f"file://{artifacts}"
        return {
            "run": (world.run_id, world.run_id, self.own_run),
            "experiment": (world.experiment_id, world.experiment_id, self.own, "0"),
            "experiment name": ("work", "a stranger's", "new"),
            "model": (NAME, NAME, KEPT, "Other", "new"),
            "version": ("1", "1", "2", "3"),
            "alias": ("production", "live", "Production", "free"),
            "stage": ("Production", "Archived", "None", "Staging"),
            "logged model": (world.logged,),
            "file": (
                world.file, frozen, world.root, world.experiment_id, f"{frozen}/new/x",
                f"{world.experiment_id}/models/{world.logged}/artifacts/MLmodel",
                "model/MLmodel", "model/new.txt", "new.txt",
            ),
            "place": (
                f"mlflow-artifacts:/{frozen}",
                f"{base}/{frozen}",
                f"{base}/{world.experiment_id}",
                base,
                "mlflow-artifacts:/",
                "mlflow-artifacts:/mine",
                f"models:/{world.logged}",
                f"models:/{NAME}/1",
                f"runs:/{world.run_id}/model",
            ),
            "tag": ("k",),
        }  # fmt: skip

    def changed(self) -> str:
        """Return what changed since the last question."""
        now = self.world.frozen()
        words, self.state = changes(self.state, now), now
        return words

    def works(self) -> None:
        """Promote, read the ledger and the page: fails if somebody has broken the guard."""
        world = self.world
        world.ledger.verify_chain()
        status, page = world.server.send("GET", "/moola")
        assert (status, "Traceback" in page) == (200, False), page[:500]
        work = world.client.get_experiment_by_name("work")  # anybody may have renamed it
        if work is None:
            world.client.create_experiment("work")
        elif work.lifecycle_stage == "deleted":
            world.client.restore_experiment(work.experiment_id)
        make_version(world.client, world.folder, weights="after", name="After")
        evaluate(world.client, world.server.key, "1", name="After")
        assert world.promote("1", "After").allowed
        newest = make_version(world.client, world.folder, weights="after")
        evaluate(world.client, world.server.key, newest)
        assert world.promote(newest).allowed


def fuzz(world: World, *, seconds: float, folder: Path, seed: int = 0) -> Report:
    """Send requests for some time; return what was found."""
    server, ground = world.server, Ground(world)
    credentials = None
    if server.auth:
        body = {"username": MALLORY, "password": PASSWORD}
        assert server.send("POST", "/api/2.0/mlflow/users/create", body)[0] == 200
        credentials = (MALLORY, PASSWORD)
    routes = routes_of(server.backend, server.artifacts, server.env, server.folder)
    routes = [route for route in routes if route.path not in OUTSIDE]
    source, wire = Fuzzer(routes, ground.targets(), seed), Wire(server.port, credentials)
    report = Report({route.path for route in routes})
    with ExitStack() as stack:
        twin = Twin(server, folder, stack, server.auth)
        end = time.monotonic() + seconds
        while time.monotonic() - twin.seconds < end:
            sent = source.next()
            answer = wire.send(sent)
            report.sent += 1
            report.statuses[answer.status] += 1
            for words in _faults(sent, answer):
                if answer.status >= 500 and twin.fails_too(sent, credentials):
                    report.of_mlflow[f"{sent.method} {sent.route.path}"] = " ".join(
                        re.sub("<[^>]*>", " ", answer.text).split()
                    )[:120]
                else:
                    report.find(words, f"{sent} -> {answer.text[:300]!r}")
            if answer.status < 400 and (words := ground.changed()):
                report.find(f"changed {words}", str(sent))
        if words := ground.changed():
            report.find(f"changed {words}", "one of those that were refused")
    try:
        ground.works()
    except (AssertionError, MoolaError, MlflowException) as error:
        report.find(f"the guard works no more: {error!r}"[:600], "one of those before")
    return report


def _faults(sent: Sent, answer: Answer) -> list[str]:
    found = []
    if answer.status == 0:
        found.append(f"no answer from {sent.route.path}")
    elif answer.status >= 500:
        found.append(f"status {answer.status} of {sent.route.method} {sent.route.path}")
    elif answer.status >= 400 and answer.text.lstrip()[:1] == "<" and _is_api(sent):
        found.append(f"a page with status {answer.status}")
    if answer.status < 500 and "Traceback (most recent call last)" in answer.text:
        found.append("a traceback")
    return found


def _is_api(sent: Sent) -> bool:
    return sent.method != "HEAD" and sent.path.startswith(_API)
