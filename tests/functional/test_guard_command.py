"""The command of the guarded server: what it says it enforces, and settings that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.server.security_utils import is_allowed_host_header

from moola.config.policy import Policy
from moola.config.promotion import ENV_POLICY, POLICY_FILE
from moola.errors import ConfigError, TrackingError
from moola.promotion.evidence.keys import ensure_signing_key
from moola.promotion.guard.server import server_command
from moola.promotion.ledger.remote import open_ledger

pytestmark = pytest.mark.usefixtures("quick_client")


def test_the_command_says_what_it_enforces_and_refuses_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no key"):
        server_command(project=tmp_path)
    ensure_signing_key(tmp_path)
    command = server_command(project=tmp_path, auth=True)
    assert command.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert any("the gates of profile ohlc" in line for line in command.enforces)
    assert "--allowed-hosts" not in command.argv
    named = server_command(project=tmp_path, allowed_hosts="a.example.org, b").argv
    hosts = named[named.index("--allowed-hosts") + 1].split(",")
    for header in ("a.example.org:5000", "b", "127.0.0.1:5000"):
        assert is_allowed_host_header(hosts, header)
    assert not is_allowed_host_header(hosts, "evil.example.org")
    with pytest.raises(ConfigError, match="mysql"):
        server_command(project=tmp_path, backend_store_uri="mysql://x/y")
    (tmp_path / POLICY_FILE).write_text("required_gates: [0, 1, 2, 6]")
    command = server_command(project=tmp_path)
    assert command.env[ENV_POLICY] == str(tmp_path / POLICY_FILE)
    assert any("0, 1, 2, 6" in line for line in command.enforces)
    assert Policy.in_force(tmp_path).ohlc.required_gates == (0, 1, 2, 6)
    (tmp_path / "policy.yaml").write_text("requird_gates: [0]")
    with pytest.raises(ConfigError, match="required_gates"):
        server_command(project=tmp_path, policy_file=tmp_path / "policy.yaml")


def test_a_plain_server_keeps_no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="cannot get the ledger"):
        open_ledger("http://127.0.0.1:9")
