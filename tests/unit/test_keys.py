"""Keys: made once, kept private, trusted, and revoked for good."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moola.config.promotion import (
    ENV_SIGNING_KEY,
    ENV_SIGNING_KEY_COMMAND,
    REVOKED_FILE,
    TRUSTED_FOLDER,
)
from moola.errors import ConfigError
from moola.promotion.evidence.keys import (
    ensure_signing_key,
    key_id,
    key_is_given,
    load_signing_key,
    load_trusted_keys,
    revoke,
    trust,
)


def test_a_signing_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = ensure_signing_key(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_signing_key(tmp_path).read_bytes() == path.read_bytes()
    key = load_signing_key(tmp_path, env={})
    trusted = load_trusted_keys(tmp_path / TRUSTED_FOLDER)
    assert key_id(key.public_key()) in trusted.keys
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        load_signing_key(tmp_path, env={})


def test_a_key_taken_off_the_trusted_ones_is_not_trusted_anew(tmp_path: Path) -> None:
    ensure_signing_key(tmp_path)
    [trusted] = (tmp_path / TRUSTED_FOLDER).iterdir()
    trusted.unlink()
    ensure_signing_key(tmp_path)
    assert load_trusted_keys(tmp_path / TRUSTED_FOLDER).keys == {}


def test_who_makes_the_key_second_trusts_the_first_ones_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def somebody_is_faster(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        ensure_signing_key(tmp_path)
        link(source, target)

    monkeypatch.setattr(os, "link", somebody_is_faster)
    ensure_signing_key(tmp_path)
    key = load_signing_key(tmp_path, env={})
    assert set(load_trusted_keys(tmp_path / TRUSTED_FOLDER).keys) == {key_id(key.public_key())}


def test_keys_from_environment_and_command(tmp_path: Path) -> None:
    text = ensure_signing_key(tmp_path).read_text()
    expected = key_id(load_signing_key(tmp_path, env={}).public_key())
    elsewhere = tmp_path / "elsewhere"
    for env in (
        {ENV_SIGNING_KEY: text},
        {ENV_SIGNING_KEY_COMMAND: f"cat {ensure_signing_key(tmp_path)}"},
    ):
        assert key_id(load_signing_key(elsewhere, env=env).public_key()) == expected
        assert key_is_given(env)
    assert not key_is_given({ENV_SIGNING_KEY: ""})
    with pytest.raises(ConfigError, match="no signing key"):
        load_signing_key(elsewhere, env={})
    with pytest.raises(ConfigError, match="does not hold a key"):
        load_signing_key(elsewhere, env={ENV_SIGNING_KEY: "hunter2"})
    with pytest.raises(ConfigError, match="failed"):
        load_signing_key(elsewhere, env={ENV_SIGNING_KEY_COMMAND: "false"})


def test_rotation_and_revocation(tmp_path: Path) -> None:
    ensure_signing_key(tmp_path)
    folder = tmp_path / TRUSTED_FOLDER
    new = Ed25519PrivateKey.generate()
    trust(folder, new.public_key())
    assert len(load_trusted_keys(folder).keys) == 2
    revoke(folder, key_id(new.public_key()))
    assert load_trusted_keys(folder).revoked == {key_id(new.public_key())}
    with pytest.raises(ConfigError, match="not a trusted key"):
        revoke(folder, "abc")
    (folder / "bad.pem").write_text("no key")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        load_trusted_keys(folder)
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]


@pytest.mark.parametrize("ending", ["", "\n", "  # left the team", "\r\n"])
def test_a_list_edited_by_hand_loses_no_key_when_another_is_revoked(
    tmp_path: Path, ending: str
) -> None:
    first, second = (Ed25519PrivateKey.generate().public_key() for _ in range(2))
    for key in (first, second):
        trust(tmp_path, key)
    listed = tmp_path / REVOKED_FILE
    listed.write_bytes(b"\xef\xbb\xbf" + f"{key_id(first).upper()}{ending}".encode())
    revoke(tmp_path, key_id(second))
    assert load_trusted_keys(tmp_path).revoked == {key_id(first), key_id(second)}


def test_a_line_that_is_no_key_id_is_an_error(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate().public_key()
    trust(tmp_path, key)
    (tmp_path / REVOKED_FILE).write_text(f"# {key_id(key)}\n{key_id(key)[:-1]}\n")
    with pytest.raises(ConfigError, match="one key id of 32 hex digits a line"):
        load_trusted_keys(tmp_path)
