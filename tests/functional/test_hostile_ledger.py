"""A ledger full of what strangers wrote: every reader reads it, and nothing in it is believed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import flask
import pytest
from guard_world import local_guard
from hostile_kit import TEXTS, hostile_body, hostile_row, insert_rows
from mlflow.server import handlers
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Runs
from promotion_kit import KEY, NAME, Bench, trusting

from moola.cli.app import _run
from moola.config.policy import Policy
from moola.config.promotion import TRUSTED_FOLDER, PromotionPolicy
from moola.promotion.evidence.keys import trust
from moola.promotion.guard.core import Guard
from moola.promotion.ledger.content import EVENTS, Unreadable
from moola.promotion.page import add_pages
from moola.steps.serve import ProductionSource

NUM = [pytest.param(200, id="200"), pytest.param(2000, id="2000", marks=pytest.mark.slow)]


def guard_of(bench: Bench) -> Guard:
    """Return the guard of a server over the bench's database; its key signs what it writes."""
    trust(bench.folder / TRUSTED_FOLDER, KEY.public_key())
    guard = local_guard(bench.folder)
    guard.ledger = guard.ledger.signing(KEY)
    return guard


def web(guard: Guard, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> flask.testing.FlaskClient:
    """Return a client of Moola's routes, in this process."""
    store = SqlAlchemyStore(f"sqlite:///{bench.folder}/mlflow.db")
    runs = Runs(f"sqlite:///{bench.folder}/mlflow.db", str(bench.folder / "mlartifacts"))
    monkeypatch.setattr(handlers, "_get_model_registry_store", lambda: store)
    monkeypatch.setattr(handlers, "_get_tracking_store", lambda: runs)
    app = flask.Flask(__name__)
    monkeypatch.setattr(
        "moola.promotion.page.RateLimits", lambda: SimpleNamespace(take=lambda _: True)
    )
    add_pages(app, guard)
    return app.test_client()


def every_reader(bench: Bench, guard: Guard, asked: flask.testing.FlaskClient) -> None:
    """Ask everything that reads the ledger; version 2 is in Production throughout."""
    keys, ledger = trusting(KEY), bench.ledger
    assert bench.production(keys).history().champion == "2"
    found = bench.production(keys).verify()
    assert found.champion == "2"
    assert [f for f in found.findings if "does not count" not in f] == []
    assert guard.frozen().runs
    guard.note_keys()
    source = ProductionSource(
        bench.client, ledger, NAME,
        trusted_folder=bench.folder / TRUSTED_FOLDER, policy=Policy.for_ohlc(PromotionPolicy()),
    )  # fmt: skip
    source._require("2")
    for path in ("/moola", f"/moola?name={NAME}", "/moola?page=2", "/moola/api/ledger"):
        answer = asked.get(path)
        assert answer.status_code == 200, (path, answer.text[:500])
    assert "version 2</a>" in asked.get("/moola").text


def test_every_single_payload_under_every_event_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    guard = guard_of(bench)
    plain = {"at": "2026-01-01T00:00:00+00:00", "who": "eve", "name": NAME, "reason": "r"}
    rest = {"version_from": None, "version_to": "1", "evidence_digest": None}
    rows = [
        {**plain, **rest, "event": event, "payload": text}
        for event in (*EVENTS, "party")
        for text in TEXTS
        if "\x00" not in text
    ]
    insert_rows(bench.folder / "mlflow.db", rows)
    every_reader(bench, guard, web(guard, bench, monkeypatch))
    lines = bench.ledger.entries(NAME)[-len(rows) :]
    assert sum(isinstance(entry.content, Unreadable) for entry in lines) > len(rows) / 2
    assert bench.promote("3").champion_before == "2"
    assert bench.champion_by_keys() == "3"


@pytest.mark.parametrize("number", NUM)
def test_hostile_lines_break_nothing(
    bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    guard = guard_of(bench)
    rng = random.Random(number)
    insert_rows(bench.folder / "mlflow.db", [hostile_row(rng, NAME) for _ in range(number)])
    every_reader(bench, guard, web(guard, bench, monkeypatch))
    done = bench.production().challenger(3)
    assert done.allowed
    assert bench.rollback().version == "1"
    assert bench.promote("3").champion_before == "1"
    assert bench.champion_by_keys() == "3"
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bench.folder}/mlflow.db")
    assert _run(["history", "--name", NAME]) == 0
    out = capsys.readouterr().out
    assert "In Production now: 3" in out
    assert "\x1b" not in out
    assert _run(["history", "--name", NAME, "--json"]) == 0
    assert _run(["verify", "--name", NAME]) == 1  # the moves that strangers wrote
    assert "In Production: 3" in capsys.readouterr().out


@pytest.mark.parametrize("number", NUM)
def test_hostile_posts_are_refused_with_a_sentence(
    bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    guard = guard_of(bench)
    asked = web(guard, bench, monkeypatch)
    rng = random.Random(number)
    statuses = []
    for _ in range(number):
        answer = asked.post("/moola/api/ledger", data=hostile_body(rng, NAME))
        statuses.append(answer.status_code)
        assert answer.status_code in (200, 400, 413), answer.text[:300]
        message = json.loads(answer.text).get("message", "")
        assert answer.status_code == 200 or (message and "\n" not in message)
    assert 400 in statuses
    every_reader(bench, guard, asked)
    written = [e for e in bench.ledger.entries() if "client at" in e.who]
    assert len(written) == statuses.count(200)
    assert {e.event for e in written} <= {"refusal"}
    assert bench.promote("3").test_looks == 3


BODY = {"event": "refusal", "who": "ann", "name": NAME, "reason": "why"}
LOOK = {**BODY, "event": "test_look", "version_to": "1", "payload": {"split_sha256": "5" * 64}}
REFUSED: dict[str, tuple[object, str]] = {
    "an intent": ({**BODY, "event": "intent"}, "event must be one of"),
    "a promotion": ({**BODY, "event": "promotion"}, "event must be one of"),
    "a list as event": ({**BODY, "event": ["refusal"]}, "event must be one of"),
    "a reference to an intent": ({**BODY, "payload": {"intent": 1}}, "'intent' is no field"),
    "an unknown field": ({**BODY, "seq": 1}, "'seq' is no field"),
    "a payload that is a list": ({**BODY, "payload": []}, "payload must be an object"),
    "a reason that is a number": ({**BODY, "reason": 5}, "reason must be given"),
    "nobody": ({**BODY, "who": " "}, "who must be given"),
    "a version that is a number": ({**BODY, "version_to": 1}, "must be a text of digits"),
    "a version that is not there": ({**BODY, "version_to": "77"}, "is not in the registry"),
    "a model that is not there": (
        {**BODY, "name": "Nobody", "version_to": "1"}, "is not in the registry",
    ),
    "a model that is not there, no version": ({**BODY, "name": "Nobody"}, "is not in the registry"),
    "a look nobody signed": (LOOK, "not signed by a gate runner"),
    "a look without a version": ({**LOOK, "version_to": None}, "version_to of a test_look"),
    "a look at no split": ({**LOOK, "payload": {}}, "split_sha256 of a look must be 64 hex"),
    "a challenger without the alias": (
        {**BODY, "event": "challenger", "version_to": "1"}, "has no alias challenger",
    ),
    "a control character": ({**BODY, "who": "ann\x1b[2J"}, "control character"),
    "NUL": ({**BODY, "name": "M\x00"}, "control character"),
    "a surrogate": ({**BODY, "who": "\ud800"}, "control character"),
    "a long reason": ({**BODY, "reason": "x" * 5000}, "has 5000 characters"),
    "too long": (b" " * 70_000, "larger than 65536 bytes"),
    "too deep": (b"[" * 60_000, "nested 60000 deep"),
    "deep, closed": (b'{"a":' * 4000 + b"1" + b"}" * 4000, "nested 4000 deep"),
    "a huge integer": (b'{"event": 1' + b"0" * 5000 + b"}", "an integer of 5001 digits"),
    "NaN": (b'{"event": NaN}', "NaN"),
    "a key twice": (b'{"event": "refusal", "event": "intent"}', "a key twice"),
    "no text": (b"\xff\xfe", "cannot be read"),
    "nothing": (b"", "no JSON"),
}  # fmt: skip


@pytest.fixture(scope="module")
def office(
    template_db: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[pytest.MonkeyPatch], flask.testing.FlaskClient]:
    bench = Bench(template_db, tmp_path_factory.mktemp("office"))
    guard = guard_of(bench)
    return lambda monkeypatch: web(guard, bench, monkeypatch)


@pytest.mark.parametrize("what", REFUSED)
def test_what_clients_may_not_write(
    what: str,
    office: Callable[[pytest.MonkeyPatch], flask.testing.FlaskClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body, why = REFUSED[what]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = office(monkeypatch).post("/moola/api/ledger", data=data)
    assert answer.status_code in (400, 413), answer.text
    assert why in answer.get_json()["message"]


def test_who_asks_is_what_the_server_knows(
    office: Callable[[pytest.MonkeyPatch], flask.testing.FlaskClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = {**BODY, "who": "root (client at 10.0.0.1)"}
    answer = office(monkeypatch).post("/moola/api/ledger", json=body).get_json()
    assert answer["who"] == "root [client at 10.0.0.1] (client at 127.0.0.1)"


def test_many_lines_push_no_move_off_the_page(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promote("1")
    plain = {"at": "2026-01-01T00:00:00+00:00", "who": "eve", "reason": "r", "event": "refusal"}
    rest = {"version_from": None, "version_to": None, "evidence_digest": None, "payload": "{}"}
    rows = [{**plain, **rest, "name": f"Nobody{n}"} for n in range(450)]
    insert_rows(bench.folder / "mlflow.db", rows)
    asked = web(guard_of(bench), bench, monkeypatch)
    for number in (1, 2, 3):
        page = asked.get(f"/moola?page={number}").text
        assert 'class="promotion"' in page
        assert "all required gates passed" in page
    shown, _, rules = asked.get("/moola").text.partition("Moves of Production")
    assert "Nobody" not in shown  # no row under "In Production"
    assert "Nobody449" in rules
    assert "Nobody0<" in asked.get("/moola?page=3").text
