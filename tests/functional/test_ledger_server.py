"""The ledger of a real guarded server: its own key, its clients' checkpoints, forged looks."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_world import World, guarded_world, honest
from hostile_kit import insert_rows
from owner_kit import read_rows, write_rows
from promotion_kit import NAME, evaluate, look_at, make_version, production, trusting

from moola.config.promotion import CHECKPOINT_FOLDER, SERVERS_FOLDER, TRUSTED_FOLDER
from moola.errors import ConfigError, PromotionRefused, TrackingError
from moola.promotion.evidence.attestation import sign, verify
from moola.promotion.evidence.keys import (
    ensure_server_key,
    key_id,
    load_trusted_keys,
    trust,
)
from moola.promotion.ledger.client_events import RateLimits
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.remote import RemoteLedger, checkpoint_of, open_ledger

pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture(scope="module")
def world(template_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with guarded_world(tmp_path_factory.mktemp("ledger-server"), template_db) as made:
        yield made


def server_key(world: World) -> Ed25519PrivateKey:
    return ensure_server_key(world.folder / ".moola", env={})


def test_the_servers_key_is_made_at_its_first_start_and_signs_no_evidence(world: World) -> None:
    path = world.folder / ".moola" / "keys" / "server.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key, trusted = server_key(world), load_trusted_keys(world.folder / TRUSTED_FOLDER)
    identity = key_id(key.public_key())
    assert (identity in trusted.servers, identity in trusted.keys) == (True, False)
    forged = replace(world.evidence("2"), key_id=identity)
    with pytest.raises(PromotionRefused, match="signed by an unknown key"):
        verify(sign(forged, key), trusted)
    moves = world.ledger.entries(NAME)
    assert {str(e.signature).partition(":")[0] for e in moves} == {identity}
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 0644"):
        server_key(world)
    path.chmod(0o600)
    pem = path.read_text()
    assert key_id(
        ensure_server_key(Path("/nowhere"), env={"MOOLA_SERVER_KEY": pem}).public_key()
    ) == identity  # fmt: skip


def test_a_client_keeps_key_and_checkpoint_and_refuses_others(world: World, tmp_path: Path) -> None:
    ledger = open_ledger(world.server.url, project=tmp_path)
    trust(tmp_path / TRUSTED_FOLDER, world.server.key.public_key())
    trusted = load_trusted_keys(tmp_path / TRUSTED_FOLDER)
    assert list(trusted.servers) == [key_id(server_key(world).public_key())]
    assert production(world.client, ledger, trusted).verify().findings == ()
    kept = checkpoint_of(world.server.url, tmp_path).read()
    assert kept is not None
    assert (kept.size, kept.ledger) == (len(ledger.entries()), world.server.url)
    assert str(kept.signature).startswith(next(iter(trusted.servers)))
    assert [p.suffix for p in (tmp_path / CHECKPOINT_FOLDER).glob("*.json")] == [".json"]
    # Whoever stands in the server's place later has another key.
    for path in (tmp_path / TRUSTED_FOLDER / SERVERS_FOLDER).glob("*.pem"):
        path.unlink()
    with pytest.raises(PromotionRefused, match=r"signs with key .* which is not trusted here"):
        open_ledger(world.server.url, project=tmp_path)


BODIES = [
    b'{"event": "test_look", "payload": {"intent": [1]}}', b"{}", b"[" * 50_000, b"null",
    b"\xff",
    b'{"event": {"$ne": 1}}', b'{"event": "refusal", "who": "\\ud800", "name": "x", "reason": "r"}',
    b'{"event": "intent", "who": "e", "name": "x", "reason": "r", "payload": {"event": ""}}',
    b'{"a":' * 400 + b"1" + b"}" * 400, b'{"version_to": 1' + b"0" * 400 + b"}",
]  # fmt: skip


def test_bodies_of_any_kind_get_a_sentence(world: World) -> None:
    before = len(world.ledger.entries())
    for body in BODIES:
        status, text = world.server.send("POST", "/moola/api/ledger", body)
        assert status == 400, text
        assert json.loads(text)["message"]
    for query in ("after=x", "after=-1", "after=" + "9" * 40, "event=party", "name=%ff", "schema="):
        assert world.server.send("GET", f"/moola/api/ledger?{query}")[0] == 200, query
    for query in ("name=%00", "name=" + "x" * 300):
        assert world.server.send("GET", f"/moola/api/ledger?{query}")[0] == 400, query
    for query in ("page=x", "page=-1", "page=999999", "name=%ff", "name=x"):
        assert world.server.send("GET", f"/moola?{query}")[0] == 200, query
    assert len(world.ledger.entries()) == before


def test_forged_looks_use_no_windows_up(world: World) -> None:
    make_version(world.client, world.folder, weights="f", name="Forged")
    evaluate(world.client, world.server.key, "1", name="Forged")
    evaluation = replace(world.evidence("2"), name="Forged", version="1")
    rogue = Ed25519PrivateKey.generate()
    for key in (rogue, server_key(world)):
        with pytest.raises(TrackingError, match="the look does not count"):
            look_at(world.ledger, key, "1", evaluation, name="Forged")
    with pytest.raises(TrackingError, match="the look names other evidence"):
        look_at(world.ledger, world.server.key, "1", evaluation, name="Forged")
    counted = len(world.ledger.looks_at({"split_sha256": "5" * 64}, trusting(world.server.key)))
    odd = {
        "at": "2026-01-01T00:00:00+00:00", "event": "test_look", "who": "eve", "name": "Forged",
        "version_from": None, "version_to": "1", "evidence_digest": None, "reason": "r",
        "payload": json.dumps({"split_sha256": "5" * 64}),
    }  # fmt: skip
    insert_rows(world.folder / "mlflow.db", [odd] * 300)
    decision = honest(world.server, "1", ledger=world.ledger, name="Forged")
    assert decision.test_looks == counted + 1
    assert "300 looks in the ledger are signed by no trusted gate runner" in " ".join(
        decision.notes
    )


def test_a_look_is_taken_once_and_at_the_split_of_its_evidence(world: World) -> None:
    entry = look_at(world.ledger, world.server.key, "2", world.evidence("2"))
    again = Draft(
        event="test_look", who="eve", name=NAME, reason="r", version_to="2",
        evidence_digest=entry.evidence_digest,
        payload={k: v for k, v in entry.payload.items() if k != "claim"},
    )  # fmt: skip
    with pytest.raises(TrackingError, match="was sent before; each counts once"):
        world.ledger.append(again)
    with pytest.raises(TrackingError, match="at another split than the evidence names"):
        look_at(world.ledger, world.server.key, "2", world.evidence("2"), split_sha256="9" * 64)


def test_a_server_whose_ledger_was_cut_moves_nothing(world: World, tmp_path: Path) -> None:
    database = world.folder / "mlflow.db"
    make_version(world.client, world.folder, weights="c", name="Cut")
    evaluate(world.client, world.server.key, "1", name="Cut")
    client = open_ledger(world.server.url, project=tmp_path)
    client.verify_chain()
    rows = read_rows(database)
    try:
        write_rows(database, rows[: len(rows) // 2])
        with pytest.raises(PromotionRefused, match="cut off: the ledger ends at"):
            honest(world.server, "1", ledger=client, name="Cut")
        with pytest.raises(PromotionRefused, match="is cut off") as refused:  # by the server itself
            honest(world.server, "1", ledger=RemoteLedger(world.server.url), name="Cut")
        named = re.search(r"ledger entry (\d+) ", str(refused.value))
        assert named is not None
        assert len(rows) // 2 < int(named[1]) <= len(rows)
        assert world.client.get_registered_model("Cut").aliases == {}
    finally:
        write_rows(database, rows)
    assert honest(world.server, "1", ledger=client, name="Cut").allowed


def test_each_caller_has_so_many_lines_and_then_one_in_a_while() -> None:
    now = [0.0]
    limits = RateLimits(at_once=3, seconds_each=2.0, clock=lambda: now[0])
    assert [limits.take("eve") for _ in range(5)] == [True] * 3 + [False] * 2
    assert limits.take("ann")
    now[0] = 1.0
    assert not limits.take("eve")
    now[0] = 4.5
    assert [limits.take("eve") for _ in range(3)] == [True, True, False]
