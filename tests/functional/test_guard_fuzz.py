"""Hostile and nearly valid requests over every route of the guarded server.

Nothing may fail with a status of 500 or more that a plain server would not fail with as well (a
plain twin over a copy of the database is asked), no route of the API answers with a page where a
sentence belongs, what is frozen stays as it is, and the guard works on afterwards.

    MOOLA_FUZZ_SECONDS=600 pytest -m slow tests/functional/test_guard_fuzz.py   # ten minutes each
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuzz_world import fuzz
from guard_server import PASSWORD, USER, running
from guard_world import POLICY, World, guarded_world
from services import postgres_or_skip, s3_store

pytestmark = pytest.mark.usefixtures("quick_client")

SECONDS = float(os.environ.get("MOOLA_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("MOOLA_FUZZ_SEED", "0"))
QUICK_SECONDS = 8


def check(world: World, folder: Path, *, seconds: float) -> None:
    report = fuzz(world, seconds=seconds, folder=folder, seed=SEED)
    print(report)
    assert len(report.routes) > 300
    assert {"/v1/traces", "/moola/api/ledger", "/graphql"} <= report.routes
    assert report.sent > seconds / 2  # checking passwords takes its time
    assert not report.findings, str(report)


def test_no_request_breaks_the_guard(template_db: Path, tmp_path: Path) -> None:
    with guarded_world(tmp_path, template_db) as world:
        check(world, tmp_path / "twin", seconds=QUICK_SECONDS)


@contextmanager
def world_on(kind: str, folder: Path, template: Path) -> Iterator[World]:
    """Start a guarded world on SQLite, PostgreSQL, an S3 store, or with log-in."""
    server = folder / "server"
    server.mkdir()
    if kind == "postgresql":
        with (
            postgres_or_skip() as database,
            running(server, backend=database.url, policy=POLICY) as running_server,
        ):
            world = World(running_server)
            yield world
            world.engine.dispose()
        return
    shutil.copy(template, server / "mlflow.db")
    if kind == "s3":
        with (
            s3_store(folder / "s3") as env,
            running(
                server, policy=POLICY, artifacts=env["MOOLA_BUCKET"], more_env=env
            ) as running_server,
        ):
            yield World(running_server)
        return
    with running(server, policy=POLICY, auth=kind == "log-in") as running_server:
        yield World(running_server)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "s3", "log-in"])
def test_some_minutes_of_fuzzing(
    kind: str, template_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "log-in":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with world_on(kind, tmp_path, template_db) as world:
        check(world, tmp_path / "twin", seconds=SECONDS)
