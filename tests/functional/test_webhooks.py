"""Webhooks of the guarded registry: a real receiver checks MLflow's signature."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.webhooks.delivery import _generate_hmac_signature
from promotion_kit import NAME, copied_client, make_version

from moola.config.policy import Policy
from moola.config.promotion import TRUSTED_FOLDER, PromotionPolicy
from moola.errors import ConfigError
from moola.promotion.guard.core import Guard
from moola.promotion.guard.registry import GuardedRegistryStore
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.webhooks import Webhooks

SECRET = "shared with the receiver"


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent and answers with the statuses given, 200 after those."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def entry_of(event: str, folder: Path):
    ledger = LocalLedger(f"sqlite:///{folder}/ledger.db")
    return ledger.append(
        Draft(event=event, who="ann", name=NAME, reason="drift", version_from="1", version_to="2")
    )


@pytest.mark.parametrize("event", ["promotion", "rollback", "refusal"])
def test_a_decision_is_announced_with_mlflows_signature(
    event: str, receiver: Receiver, tmp_path: Path
) -> None:
    hooks = Webhooks((receiver.url,), SECRET)
    entry = entry_of(event, tmp_path)
    hooks.announce(entry)
    hooks.wait()
    [(headers, body)] = receiver.received
    said = json.loads(body)
    assert (said["entity"], said["action"]) == ("moola", event)
    assert said["data"]["version_to"] == "2"
    assert said["data"]["entry_hash"] == entry.entry_hash
    expected = _generate_hmac_signature(
        SECRET, headers["X-MLflow-Delivery-Id"], headers["X-MLflow-Timestamp"], body.decode()
    )
    assert headers["X-MLflow-Signature"] == expected


def test_a_failing_receiver_is_tried_again_and_then_given_up(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    hooks = Webhooks((receiver.url,), None, pause=pauses.append)
    receiver.statuses = [503, 302]  # a redirection is not followed, so nobody got the message
    hooks.announce(entry_of("promotion", tmp_path))
    hooks.wait()
    assert len(receiver.received) == 3
    assert pauses == [2.0, 4.0]
    assert "X-MLflow-Signature" not in receiver.received[0][0]
    receiver.statuses = [500] * 3
    hooks.announce(entry_of("refusal", tmp_path))
    hooks.announce(entry_of("test_look", tmp_path))
    hooks.wait()
    assert len(receiver.received) == 6
    assert "given up after 3 attempts" in caplog.text


def test_a_dead_receiver_does_not_hold_up_a_decision(
    receiver: Receiver, template_db: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = copied_client(template_db, tmp_path)
    make_version(client, tmp_path)
    blocked = threading.Event()
    hooks = Webhooks(
        ("http://127.0.0.1:9/", receiver.url), SECRET, pause=lambda _s: blocked.wait(30)
    )
    guard = Guard(
        policy=Policy.for_ohlc(PromotionPolicy()),
        trusted_folder=tmp_path / TRUSTED_FOLDER,
        ledger=LocalLedger(f"sqlite:///{tmp_path}/mlflow.db"),
        artifacts_destination=str(tmp_path),
        artifact_root=str(tmp_path),
        lock_file=tmp_path / "lock",
        webhooks=hooks,
    )
    store = GuardedRegistryStore(f"sqlite:///{tmp_path}/mlflow.db", guard=guard)
    with pytest.raises(MlflowException, match="carries no evidence"):
        store.set_registered_model_alias(NAME, "production", "1")
    # Refused and written down while the dead receiver is still being tried.
    assert guard.ledger.entries(NAME)[-1].event == "refusal"
    assert receiver.received == []
    blocked.set()
    hooks.wait()
    [(_, body)] = receiver.received
    assert json.loads(body)["action"] == "refusal"
    assert "given up" in caplog.text


def test_addresses_are_checked() -> None:
    with pytest.raises(ConfigError, match="ftp://x"):
        PromotionPolicy(webhooks=("ftp://x",))
