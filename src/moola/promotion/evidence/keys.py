"""Keys: a gate runner, CI or a person signs with the private one, others check with public ones.

Ed25519 signs everything. P-256 signs attestations too, because other tools and hardware hold such
keys; evidence of gates and lines of the ledger it does not sign.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moola.config.promotion import (
    ENV_SERVER_KEY,
    ENV_SIGNING_KEY,
    ENV_SIGNING_KEY_COMMAND,
    KEY_FILE,
    KEY_FOLDER,
    REVOKED_FILE,
    SERVER_KEY_FILE,
    SERVERS_FOLDER,
    TRUSTED_FOLDER,
)
from moola.errors import ConfigError

PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_COMMAND_SECONDS = 30.0
_KEY_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class TrustedKeys:
    """Public keys whose signatures count, by key id, and the ids that no longer count.

    Parameters
    ----------
    keys
        Gate runners' keys: they sign evidence, looks at the locked test windows and, on a plain
        store, lines of the ledger.
    revoked
        Ids that no longer count, of either kind.
    servers
        Guarded servers' keys: they sign lines of the ledger, and nothing else counts from them.
    folder
        Where they were read; None where they were put together.
    p256
        Keys on curve P-256: they sign attestations, and nothing else counts from them.
    names
        Name of each key by its id: its file's, without ``.pem``. Rules name signers so.
    """

    keys: Mapping[str, Ed25519PublicKey]
    revoked: frozenset[str] = field(default_factory=frozenset)
    servers: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)
    p256: Mapping[str, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def attesters(self) -> Mapping[str, PublicKey]:
        """Keys that may sign attestations."""
        return {**self.keys, **self.p256}

    def named(self, identity: str) -> str:
        """Return the name of a key, its id where it has none."""
        return self.names.get(identity, identity)

    def now(self) -> TrustedKeys:
        """Return the keys of the same folder as it is now; themselves where there is none."""
        return self if self.folder is None else load_trusted_keys(self.folder)


def key_id(public_key: PublicKey) -> str:
    """Return a key's id: the first 32 hex digits of a SHA-256.

    Of its 32 raw bytes for Ed25519, of its point (65 bytes, uncompressed) for P-256.
    """
    if isinstance(public_key, Ed25519PublicKey):
        raw = public_key.public_bytes_raw()
    else:
        raw = public_key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    return hashlib.sha256(raw).hexdigest()[:32]


def ensure_signing_key(folder: Path, *, name: str | None = None) -> Path:
    """Return the gate runner's key file of a project, made (0600) and trusted if there is none.

    A key that is there already is not trusted anew: whoever took it off the trusted keys meant it.
    Safe when several processes call it at once: one key wins.

    Parameters
    ----------
    folder
        The project directory; keys are in its ``.moola/keys`` and ``.moola/trusted``.
    name
        Name of the public key, by which rules call its owner; None: its id.

    Returns
    -------
    Path
        The key file.
    """
    path = Path(folder) / KEY_FOLDER / KEY_FILE
    if path.exists():
        return path
    key = Ed25519PrivateKey.generate()
    trusted = trust(Path(folder) / TRUSTED_FOLDER, key.public_key(), name=name)
    if not _write_new_key(path, key):
        trusted.unlink()  # another process was faster, and its key counts
    return path


def ensure_server_key(folder: Path, *, env: Mapping[str, str]) -> Ed25519PrivateKey:
    """Return a guarded server's key, made (0600) at its first start; its public half is trusted.

    Parameters
    ----------
    folder
        The server's ``.moola``; keys are in its ``keys`` and ``trusted/servers``.
    env
        The environment: ``MOOLA_SERVER_KEY`` holds the key as PEM text and wins, for servers whose
        disk does not last.

    Returns
    -------
    Ed25519PrivateKey
        The key that signs what the server writes into the ledger, and no evidence.

    Raises
    ------
    ConfigError
        If the key cannot be read or made, is not Ed25519, or others can read its file.
    """
    if text := env.get(ENV_SERVER_KEY):
        return _parse_private(text.encode(), ENV_SERVER_KEY)
    path = Path(folder) / Path(KEY_FOLDER).name / SERVER_KEY_FILE
    try:
        if not path.exists():
            _write_new_key(path, Ed25519PrivateKey.generate())
    except OSError as error:
        raise ConfigError(
            f"the server's key cannot be written to {path}: {error}",
            remedy=f"Make its folder writable, or set {ENV_SERVER_KEY}",
        ) from None
    key = _read_key_file(path)
    with contextlib.suppress(OSError):  # a folder that is mounted to be read only
        trust(Path(folder) / Path(TRUSTED_FOLDER).name / SERVERS_FOLDER, key.public_key())
    return key


def _write_new_key(path: Path, key: Ed25519PrivateKey) -> bool:
    """Write a key to a new file of mode 0600; return False where another process was faster."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent)  # mkstemp gives mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_private_pem(key))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def key_is_given(env: Mapping[str, str]) -> bool:
    """Return whether the environment names the gate runner's key, so that no file is needed."""
    return bool(env.get(ENV_SIGNING_KEY) or env.get(ENV_SIGNING_KEY_COMMAND))


def load_signing_key(folder: Path, *, env: Mapping[str, str]) -> Ed25519PrivateKey:
    """Return the private key from the environment, a key command, or the project's key file.

    Parameters
    ----------
    folder
        The project directory.
    env
        The environment: ``MOOLA_SIGNING_KEY`` holds the key as PEM text and wins;
        ``MOOLA_SIGNING_KEY_COMMAND`` is run without a shell and prints the PEM text.

    Returns
    -------
    Ed25519PrivateKey
        The gate runner's key.

    Raises
    ------
    ConfigError
        If there is no key, it is not Ed25519, or others can read the key file.
    """
    if text := env.get(ENV_SIGNING_KEY):
        return _parse_private(text.encode(), ENV_SIGNING_KEY)
    if command := env.get(ENV_SIGNING_KEY_COMMAND):
        return _parse_private(_run_key_command(command), ENV_SIGNING_KEY_COMMAND)
    return _read_key_file(Path(folder) / KEY_FOLDER / KEY_FILE)


def load_attester_key(path: Path) -> PrivateKey:
    """Return a private key that signs attestations: Ed25519 or P-256, PEM, in a file of mode 0600.

    Raises
    ------
    ConfigError
        If there is none, it is of another kind, or others can read the file.
    """
    key = _parse_pem(_private_bytes(Path(path)))
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ConfigError(f"{path} does not hold a key", limit="an Ed25519 or P-256 private key as PEM")


def trust(folder: Path, public_key: PublicKey, *, name: str | None = None) -> Path:
    """Write a public key into the folder of trusted keys, under its name or id; return its file."""
    path = Path(folder) / f"{name or key_id(public_key)}.pem"
    if path.exists() and name is not None:
        raise ConfigError(
            f"{path} is there already", limit="one key under each name", remedy="Give another name"
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(
            public_key.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        temporary.replace(path)
    return path


def revoke(folder: Path, identity: str) -> None:
    """List a key id as revoked: nothing it ever signed counts any more."""
    trusted = load_trusted_keys(folder)
    if identity not in trusted.attesters:
        raise ConfigError(
            f"{identity!r} is not a trusted key",
            limit=f"one of {', '.join(sorted(trusted.attesters)) or 'none'} in {folder}",
        )
    listed = Path(folder) / REVOKED_FILE
    with listed.open("ab") as handle:  # appended: two calls at once keep each other's line
        ended = not handle.tell() or listed.read_bytes().endswith(b"\n")
        handle.write(("" if ended else "\n").encode() + identity.encode() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
    if identity not in load_trusted_keys(folder).revoked:
        raise ConfigError(f"{identity} is not on the list after it was written", limit=str(listed))


def load_trusted_keys(folder: Path) -> TrustedKeys:
    """Read every ``*.pem`` of a folder and its ``revoked`` list (one key id a line, # comments).

    A line of the list that is no key id is an error: a misspelt id would go on counting.

    Parameters
    ----------
    folder
        Folder of public keys; an absent one trusts nobody.

    Returns
    -------
    TrustedKeys
        Keys by id, those of servers from its ``servers`` apart, and the ids that no longer count.

    Raises
    ------
    ConfigError
        If a file is not an Ed25519 public key, or the list holds something else than key ids.
    """
    named = _public_keys(Path(folder))
    servers = _public_keys(Path(folder) / SERVERS_FOLDER)
    return TrustedKeys(
        keys={key_id(k): k for k in named.values() if isinstance(k, Ed25519PublicKey)},
        revoked=_read_revoked(Path(folder) / REVOKED_FILE),
        servers={key_id(k): k for k in servers.values() if isinstance(k, Ed25519PublicKey)},
        folder=Path(folder),
        p256={key_id(k): k for k in named.values() if isinstance(k, ec.EllipticCurvePublicKey)},
        names={key_id(key): name for name, key in named.items()},
    )


def _public_keys(folder: Path) -> dict[str, PublicKey]:
    """Return the keys of a folder by the names of their files."""
    keys: dict[str, PublicKey] = {}
    for path in sorted(folder.glob("*.pem")):
        try:
            loaded = serialization.load_pem_public_key(path.read_bytes())
        except (ValueError, UnsupportedAlgorithm):
            loaded = None
        is_p256 = isinstance(loaded, ec.EllipticCurvePublicKey) and isinstance(
            loaded.curve, ec.SECP256R1
        )
        if not isinstance(loaded, Ed25519PublicKey) and not is_p256:
            raise ConfigError(
                f"{path} is not an Ed25519 or P-256 public key",
                remedy="Remove it, or replace it with the public key of a gate runner or server",
            )
        assert isinstance(loaded, PublicKey)
        same = next((name for name, key in keys.items() if key_id(key) == key_id(loaded)), None)
        if same is not None:  # one person under two names would count as two
            raise ConfigError(
                f"{path} holds the key of {same}.pem", limit="each key once, under one name"
            )
        keys[path.stem] = loaded
    return keys


def _read_revoked(path: Path) -> frozenset[str]:
    # utf-8-sig: some editors put a mark before the first id
    text = path.read_text("utf-8-sig", errors="replace") if path.exists() else ""
    listed = {line.split("#")[0].strip().lower() for line in text.splitlines()} - {""}
    if strange := sorted(line for line in listed if not _KEY_ID.fullmatch(line)):
        raise ConfigError(
            f"{path} holds {strange[0][:80]!r}",
            limit="one key id of 32 hex digits a line, and comments after #",
            remedy="Correct the line: until then no key counts",
        )
    return frozenset(listed)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key_file(path: Path) -> Ed25519PrivateKey:
    return _parse_private(_private_bytes(path), str(path))


def _private_bytes(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no signing key at {path}",
            remedy=f"Run the evaluation in this project once, or set {ENV_SIGNING_KEY}",
        ) from None
    if mode & 0o077:
        raise ConfigError(
            f"{path} has mode {mode:04o}",
            limit="0600, so that nobody else can sign",
            remedy=f"chmod 600 {path}",
        )
    return data


def _parse_pem(data: bytes) -> object:
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _parse_private(data: bytes, where: str) -> Ed25519PrivateKey:
    key = _parse_pem(data)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{where} does not hold a key", limit="an Ed25519 private key as PEM")
    return key


def _run_key_command(command: str) -> bytes:
    try:
        process = subprocess.run(
            shlex.split(command), capture_output=True, timeout=_COMMAND_SECONDS, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"{ENV_SIGNING_KEY_COMMAND} failed ({type(error).__name__})",
            limit=f"a command that prints a PEM key within {_COMMAND_SECONDS:g} s",
        ) from None
    return process.stdout
