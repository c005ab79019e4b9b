"""``kill -9`` of the guarded server, and of its client, at random moments of a promotion."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import traceback
from pathlib import Path

import pytest
import sqlalchemy as sa
from guard_server import Server, running
from guard_world import honest
from mlflow import MlflowClient
from promotion_kit import copied_client, evaluate, forget_connections, make_version, production

from moola.config.promotion import TRUSTED_FOLDER
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key, load_trusted_keys
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.ledger.remote import RemoteLedger

A_FEW = (
    "client",
) * 5  # that a dying server moves all or nothing, `test_guard_store.py` tests cheaper
MANY = ("client", "server", "client") * 16 + ("client", "server")


def client_process(server: Server, version: str) -> None:
    forget_connections(server.folder)
    try:
        honest(server, version, ledger=RemoteLedger(server.url), who="ann")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def champion(server: Server) -> str:
    """Read stage, alias and ledger in one snapshot; they must name one and the same version."""
    engine = sa.create_engine(server.backend, poolclass=sa.NullPool)
    isolation = "REPEATABLE READ" if engine.dialect.name == "postgresql" else "SERIALIZABLE"
    with engine.connect().execution_options(isolation_level=isolation) as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")

        def read(question: str) -> list[str]:
            return [str(value) for value in connection.execute(sa.text(question)).scalars()]

        stage = read("SELECT version FROM model_versions WHERE current_stage = 'Production'")
        alias = read("SELECT version FROM registered_model_aliases WHERE alias = 'production'")
        ledger = read(
            "SELECT version_to FROM moola_ledger WHERE event IN ('promotion', 'rollback') "
            "ORDER BY seq DESC LIMIT 1"
        )
    assert stage == alias == ledger
    return stage[0]


def promote_and_kill(server: Server, *, victim: str, seconds: float) -> bool:
    """Begin a promotion, kill the victim after `seconds`, and return whether Production moved."""
    before = champion(server)
    version = {"1": "2", "2": "1"}[before]
    client = multiprocessing.get_context("fork").Process(
        target=client_process, args=(server, version)
    )
    client.start()
    client.join(timeout=seconds)
    if victim == "server":
        server.kill()
        after = champion(server)
        client.join(timeout=60)
        server.start()
    else:
        client.kill()
        client.join()
        after = champion(server)
    return after != before


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    "victims", [A_FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["a few", "fifty"]
)
def test_registry_and_ledger_agree_after_every_kill(
    victims: tuple[str, ...],
    database: str,
    template_db: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if database == "sqlite":
        backend, direct = f"sqlite:///{tmp_path}/mlflow.db", copied_client(template_db, tmp_path)
    else:
        backend = request.getfixturevalue("postgres")
        direct = MlflowClient(backend)
        direct.create_experiment("work", artifact_location=(tmp_path / "mlartifacts").as_uri())
    ensure_signing_key(tmp_path)
    key = load_signing_key(tmp_path, env={})
    for number in range(2):
        make_version(direct, tmp_path, weights=f"w{number}")
        evaluate(direct, key, str(number + 1))
    moments = random.Random(50)
    with running(tmp_path, backend=backend) as server:
        # In a process of its own, so that this one keeps no connection for children to inherit.
        assert promote_in_child(server, "1") == 0
        began = time.monotonic()
        assert promote_in_child(server, "2") == 0
        takes = time.monotonic() - began
        moved = 0
        for victim in victims:
            seconds = moments.uniform(0.1, 1.1) * takes
            moved += promote_and_kill(server, victim=victim, seconds=seconds)
        # The request of a killed client may still be at work; a server that starts anew has none.
        server.kill()
        server.start()
        last = "1" if champion(server) == "2" else "2"
        assert promote_in_child(server, last) == 0
        assert champion(server) == last
        if victims is MANY:
            assert 0 < moved < len(victims)
        keys = load_trusted_keys(tmp_path / TRUSTED_FOLDER)  # the server's own among them
        findings = production(direct, LocalLedger(backend), keys).verify().findings
        assert findings == ()


def promote_in_child(server: Server, version: str) -> int | None:
    client = multiprocessing.get_context("fork").Process(
        target=client_process, args=(server, version)
    )
    client.start()
    client.join(timeout=120)
    return client.exitcode
