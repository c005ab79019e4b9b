"""Production is followed while requests go on, and what is not proven never answers."""

from __future__ import annotations

import os
import signal
import threading
import time
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from serve_kit import (
    NAME,
    Reply,
    Stand,
    as_json,
    calling,
    copy_of,
    expected_proba,
    in_folder,
    moola_serve,
    npz,
    random_windows,
)

from moola.cli import main
from moola.config.policy import Policy
from moola.config.promotion import POLICY_FILE, TRUSTED_FOLDER
from moola.errors import TrackingError
from moola.promotion.evidence.keys import key_id, revoke
from moola.promotion.state import clear_production, put_in_production, read_state
from moola.serving.bodies import JSON, NPZ
from moola.serving.follow import Follower
from moola.steps.serve import ProductionSource

X = random_windows(7, seed=9)


class Load:
    """Callers that never pause; what they were answered, and when."""

    def __init__(self, url: str, num_callers: int = 3):
        self._stop = threading.Event()
        self.answers: list[tuple[float, Reply]] = []
        self.broken: list[str] = []  # never answered
        self.cut_off: list[str] = []  # answered in part
        self._threads = [
            threading.Thread(target=self._call, args=(url, k)) for k in range(num_callers)
        ]

    def _call(self, url: str, seed: int) -> None:
        body = npz(X) if seed % 2 else as_json(X)
        with calling(url) as call:
            while not self._stop.is_set():
                try:
                    reply = call(body, NPZ if seed % 2 else JSON)
                    self.answers.append((time.monotonic(), reply))
                except IncompleteRead as error:
                    self.cut_off.append(repr(error))
                    call.close()
                except OSError as error:
                    self.broken.append(repr(error))
                    call.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def served_version(call) -> str:
    return call.get("/version").headers["x-model-version"]


def wait_for(call, version: str) -> None:
    deadline = time.monotonic() + 30
    while served_version(call) != version:
        assert time.monotonic() < deadline, f"version {version} does not come"


def follow_moves(stand: Stand, *, num_moves: int, seconds: float) -> dict[str, int]:
    """Move Production to and fro under load; return how many requests each version answered."""
    champion = read_state(stand.client, NAME).champion
    answers: dict[str, np.ndarray] = {v: expected_proba(stand, X, v) for v in ("1", "2")}
    began = time.monotonic()
    since = {champion: began}
    with (
        moola_serve(stand) as (url, _),
        calling(url) as call,
        Load(url) as load,
    ):
        for move in range(num_moves):
            champion = "2" if champion == "1" else "1"
            since.setdefault(champion, time.monotonic())
            if move % 2:
                stand.rollback(champion)
            else:
                stand.promote(champion)
            wait_for(call, champion)
            assert time.monotonic() < began + 20 * seconds
            pause = began + seconds * (move + 1) / num_moves - time.monotonic()
            if pause > 0:
                threading.Event().wait(pause)
    assert load.broken == []
    counts = {"1": 0, "2": 0}
    for at, reply in load.answers:
        version = reply.headers["x-model-version"]
        assert at >= since[version]
        assert np.abs(reply.proba() - answers[version]).max() < 1e-6
        counts[version] += 1
    assert min(counts.values()) > 0
    return counts


def test_promotions_are_followed_without_a_failed_request(stand: Stand, tmp_path: Path) -> None:
    follow_moves(copy_of(stand, tmp_path), num_moves=4, seconds=3)


@pytest.mark.slow
def test_a_minute_of_load_and_twenty_moves(stand: Stand, tmp_path: Path) -> None:
    counts = follow_moves(copy_of(stand, tmp_path), num_moves=20, seconds=60)
    print(f"{sum(counts.values())} requests, by version {counts}, none failed")


class Watched:
    """A follower without its thread: every look is the test's."""

    def __init__(self, stand: Stand):
        self.refused: list[tuple[str, str]] = []
        source = ProductionSource(
            stand.client,
            stand.ledger,
            NAME,
            trusted_folder=stand.folder / TRUSTED_FOLDER,
            policy=Policy.in_force(stand.folder).ohlc,
        )
        self.follower = Follower(
            source,
            poll_seconds=3600,
            on_refusal=lambda version, reason: self.refused.append((version, reason)),
        )
        self.follower.start()

    def look(self) -> str | None:
        self.follower.look()
        return self.follower.current and self.follower.current.version


def start_serve(stand: Stand) -> int:
    """Run `moola serve` where it must end before it serves; return its exit code."""
    with in_folder(stand.folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", stand.uri)
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--port", "1"])
    return ended.value.code


def test_a_tampered_version_never_serves(
    stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy_of(stand, tmp_path)
    version = own.make_version(seed=3)
    watched = Watched(own)
    own.promote(version)
    weights = own.weights_of(version)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert watched.look() == "1"
    assert watched.refused[0][0] == version
    assert "files were changed" in watched.refused[0][1]
    assert start_serve(own) == 1
    assert "files were changed" in capsys.readouterr().err


def test_what_was_not_promoted_is_not_served(
    stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy_of(stand, tmp_path)
    watched = Watched(own)
    put_in_production(own.client, NAME, "2")  # by hand, past the gates
    assert watched.look() == "1"
    assert "never held Production" in watched.refused[0][1]
    assert start_serve(own) == 1
    assert "never held Production" in capsys.readouterr().err


def test_a_withdrawn_version_is_not_served_because_somebody_moved_it_back(
    stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy_of(stand, tmp_path)
    own.promote("2")
    withdrawn = Watched(own)
    own.rollback("1")
    watched = Watched(own)
    put_in_production(own.client, NAME, "2")  # by hand, past the ledger
    assert [watched.look() for _ in range(3)] == ["1"] * 3
    [(_, reason)] = watched.refused
    assert "the ledger's last move is to version 1" in reason
    # One that answered before the rollback, and saw neither move, does not answer for long.
    assert [withdrawn.look() for _ in range(3)] == ["2", "2", None]
    assert start_serve(own) == 1
    assert "the ledger's last move is to version 1" in capsys.readouterr().err


def test_a_deleted_model_is_an_empty_production(stand: Stand, tmp_path: Path) -> None:
    own = copy_of(stand, tmp_path)
    watched = Watched(own)
    own.client.delete_registered_model(NAME)
    assert watched.look() is None


def test_who_may_not_read_goes_on_with_the_version_before(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise MlflowException("not yours", PERMISSION_DENIED)

    own = copy_of(stand, tmp_path)
    watched = Watched(own)
    for call in ("get_model_version", "get_registered_model"):
        monkeypatch.setattr(own.client, call, denied)
        with pytest.raises(TrackingError, match="may not read"):
            watched.look()
    assert watched.follower.current.version == "1"


def test_a_version_whose_key_is_revoked_stops_serving(stand: Stand, tmp_path: Path) -> None:
    own = copy_of(stand, tmp_path)
    watched = Watched(own)
    assert watched.look() == "1"
    revoke(own.folder / TRUSTED_FOLDER, key_id(own.key.public_key()))
    assert watched.look() is None
    assert "revoked key" in watched.refused[0][1]


def test_what_the_projects_policy_asks_for_is_asked_of_what_is_served(
    stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy_of(stand, tmp_path)
    (own.folder / POLICY_FILE).write_text("required_gates: [0, 1, 2, 6]\n")
    assert start_serve(own) == 1
    assert "gate 6" in capsys.readouterr().err


def test_what_is_in_production_is_served_however_old_its_evidence(
    stand: Stand, tmp_path: Path
) -> None:
    own = copy_of(stand, tmp_path)
    (own.folder / POLICY_FILE).write_text("max_evidence_age_days: 1.0e-9\n")
    watched = Watched(own)
    assert (watched.look(), watched.refused) == ("1", [])


def test_without_anything_in_production_it_does_not_start(
    stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy_of(stand, tmp_path)
    clear_production(own.client, NAME)
    assert start_serve(own) == 1
    shown = capsys.readouterr()
    assert "nothing is in Production" in shown.err
    assert "http://" not in shown.out + shown.err  # there is no address to ask


def test_the_registry_may_be_away_for_a_while(stand: Stand, tmp_path: Path) -> None:
    own = copy_of(stand, tmp_path)
    watched = Watched(own)
    kept = (own.folder / "mlflow.db").read_bytes()
    own.ledger._engine.dispose()
    (own.folder / "mlflow.db").write_bytes(b"not a database at all")
    with pytest.raises(TrackingError):
        watched.look()
    assert watched.follower.current.version == "1"
    (own.folder / "mlflow.db").write_bytes(kept)


def test_sigterm_under_load_answers_what_it_took(stand: Stand, tmp_path: Path) -> None:
    own = copy_of(stand, tmp_path)
    many = random_windows(4000, seed=3)
    sent, replies = threading.Event(), []

    def ask_for_many() -> None:
        with calling(url) as call:
            send = call._connection.send

            def told(data: bytes) -> None:
                send(data)
                if len(data) > 1_000_000:  # more than the sockets hold: the server is reading
                    sent.set()

            call._connection.send = told
            replies.append(call(npz(many), NPZ))

    with moola_serve(own, "--max-windows", "5000") as (url, pid):
        slow = threading.Thread(target=ask_for_many)
        with Load(url, 2) as load:
            slow.start()
            assert sent.wait(30)
            os.kill(pid, signal.SIGTERM)
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            slow.join(10)
    assert len(replies[0].rows()) == len(many)
    assert ended.si_status == 143  # as every command ends on SIGTERM
    assert load.answers
    assert {reply.status for _, reply in load.answers} == {200}
    assert load.cut_off == []
