"""The guarded server with log-in: who asks has to be allowed to, and the ledger names them."""

from __future__ import annotations

from pathlib import Path

import pytest
from guard_server import PASSWORD, USER, running
from guard_world import POLICY, honest
from promotion_kit import NAME, copied_client, evaluate, make_version

from moola.config.promotion import TAG_EVIDENCE
from moola.errors import PromotionRefused, TrackingError
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.remote import RemoteLedger

pytestmark = pytest.mark.usefixtures("quick_client")


def test_with_log_in(template_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask_wtf", reason="log-in needs the extra auth (Flask-WTF)")
    ensure_signing_key(tmp_path)
    key = load_signing_key(tmp_path, env={})
    before = copied_client(template_db, tmp_path)  # checking passwords takes its time
    for number in range(2):
        make_version(before, tmp_path, weights=f"w{number}")
        evaluate(before, key, str(number + 1))
    before.delete_model_version_tag(NAME, "2", TAG_EVIDENCE)
    run_id = before.get_model_version(NAME, "1").run_id
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with running(tmp_path, policy=POLICY + f"promoters: [{USER}]\n", auth=True) as server:
        ledger = RemoteLedger(server.url)
        assert honest(server, "1", ledger=ledger, name=NAME).allowed
        two = {"name": NAME, "version": "2"}
        for path, body in {
            "model-versions/transition-stage": {
                "name": NAME,
                "version": "2",
                "stage": "production",
            },
            "registered-models/alias": {**two, "alias": "production"},
            "registered-models/rename": {"name": NAME, "new_name": "Else"},
            "runs/set-tag": {"run_id": run_id, "key": "k", "value": "v"},
            "experiments/create": {"name": "x", "artifact_location": "file:///etc"},
        }.items():
            status, text = server.send("POST", f"/api/2.0/mlflow/{path}", body)
            assert status == 403, (path, text)
        last = ledger.entries(NAME)[-1]
        assert (last.event, last.who) == ("refusal", USER)
        # Evidence alone does not do: who asks has to be allowed to.
        evaluate(before, key, "2")
        body = {"username": "mallory", "password": PASSWORD}
        assert server.send("POST", "/api/2.0/mlflow/users/create", body)[0] == 200
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "mallory")
        with pytest.raises(PromotionRefused, match="user mallory may not move Production"):
            honest(server, "2", ledger=RemoteLedger(server.url), name=NAME)
        last = ledger.entries(NAME, events=("refusal",))[-1]
        assert (last.who, last.payload["claim"]) == ("mallory", "2")
        # Whoever may not edit the model writes nothing about it, and reads all of it.
        body = {"username": "eve", "password": PASSWORD}
        assert server.send("POST", "/api/2.0/mlflow/users/create", body)[0] == 200
        body = {"username": "eve", "permission": "DENY", "resource_type": "registered_model"}
        path = "/api/3.0/mlflow/users/permissions/grant"
        status, text = server.send("POST", path, {**body, "resource_id": NAME})
        assert status == 200, text
        line = Draft(event="refusal", who="root (admin)", name=NAME, reason="r")
        written = RemoteLedger(server.url).append(line)
        assert (written.who, written.payload["claim"]) == ("mallory", "root [admin]")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "eve")
        theirs = RemoteLedger(server.url)
        assert theirs.entries(NAME)[-1] == written
        with pytest.raises(TrackingError, match=f"user eve may not edit {NAME}"):
            theirs.append(line)
        server.auth = False
        for path in ("/moola", "/moola/api/ledger"):
            assert server.send("GET", path)[0] == 401
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-password-at-all")
        with pytest.raises(TrackingError, match="keeps no ledger for us"):
            RemoteLedger(server.url)
    assert str(before.get_model_version_by_alias(NAME, "production").version) == "1"
