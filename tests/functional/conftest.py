"""Servers that several test modules ask, started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from promotion_kit import Bench
from serve_kit import Stand, make_stand, mlflow_serve, moola_serve
from services import postgres_or_skip


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Stand:
    """Two small versions, the first in Production."""
    return make_stand(tmp_path_factory.mktemp("stand"), template_db)


@pytest.fixture(scope="session")
def plain_server(stand: Stand) -> Iterator[str]:
    """`mlflow models serve` of version 1."""
    with mlflow_serve(stand, "/1") as url:
        yield url


@pytest.fixture(scope="session")
def server(stand: Stand) -> Iterator[tuple[str, int]]:
    """`moola serve`: address and process id."""
    limits = ("--max-body-mib", "2", "--max-windows", "1000")
    with moola_serve(stand, "--poll", "5", *limits) as running:  # it stays up; nobody promotes
        yield running


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of the test's own, its data in a temporary folder."""
    with postgres_or_skip() as server:
        yield server.url


@pytest.fixture
def bench(template_db: Path, tmp_path: Path) -> Bench:
    """A plain store with three evaluated versions."""
    return Bench(template_db, tmp_path)


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client asks again only once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
