"""Which lines of a ledger count: those that a trusted key signed.

Two signatures are asked for. Every line that Moola writes is signed over its hash, and so over all
lines before it: by the server's key on a guarded server, by the gate runner's on a plain store.
A look at the locked test windows is signed by the gate runner as well, over what was looked at, so
that a server can be sent it and nobody else can use windows up.

The rest is listed and never believed. Lines from before there were signatures are believed up to a
`boundary`, a signed line that says how far they go.
"""

from __future__ import annotations

import base64
import binascii
import functools
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from moola.hashing import canonical_json
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.content import SPAN, TRIED, Boundary, LookLine, Unreadable
from moola.promotion.ledger.entry import MOVES, Entry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

GENESIS = "0" * 64
_MISFIT = "its signature does not fit"
_LINE = b"moola ledger line v1\n"
_LOOK = b"moola look v1\n"
_HEAD = b"moola ledger head v1\n"


def sign_line(entry_hash: str, key: Ed25519PrivateKey) -> str:
    """Return key id and signature over a line's hash, as the ledger keeps them."""
    return _signed(_LINE, entry_hash, key)


def sign_head(head: Mapping[str, Any], key: Ed25519PrivateKey) -> str:
    """Return key id and signature over where a ledger ends."""
    return _signed(_HEAD, canonical_json(dict(head)), key)


def head_is_signed(head: Mapping[str, Any], signature: str, keys: TrustedKeys) -> bool:
    """Return whether a trusted key signed where a ledger ends."""
    return _why_not_signed(_HEAD, canonical_json(dict(head)), signature, keys) is None


def signed_look(
    windows: Mapping[str, Any],
    *,
    name: str,
    version: str | None,
    evidence_digest: str | None,
    ledger_id: str,
    key: Ed25519PrivateKey,
) -> dict[str, Any]:
    """Return the payload of a look at windows, signed by the gate runner.

    Parameters
    ----------
    windows
        ``split_sha256`` and, where known, ``source``, ``market`` (its sketch), ``first_bar``,
        ``last_bar``; further fields are kept and not signed.
    name, version
        The registered model and the version that is looked at; None at validation windows.
    evidence_digest
        Digest of the evaluation it follows; None at validation windows.
    ledger_id
        Hash of the ledger's first line, so that the look counts in no other ledger.
    key
        The gate runner's key.

    Returns
    -------
    dict
        The payload. Its ``nonce`` makes it count once, however often it is sent.
    """
    payload = {**windows, "ledger": ledger_id, "nonce": secrets.token_hex(16)}
    look = LookLine(
        version=version,
        windows={},
        statement={k: payload[k] for k in _SIGNED if payload.get(k) is not None},
        key_id=None,
        signature=None,
    )
    identity, signature = _signed(
        _LOOK, _statement(look, name, version, evidence_digest), key
    ).split(":")
    return {**payload, "key_id": identity, "signature": signature}


_SIGNED = (*SPAN, *TRIED, "ledger", "nonce")


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What counts in one ledger by the keys that are trusted now.

    Parameters
    ----------
    keys
        The trusted keys: gate runners' and servers'.
    ledger_id
        Hash of the ledger's first line, `GENESIS` where it is empty.
    unsigned_up_to
        Lines up to this number need no signature: they are from before there were any.
    """

    keys: TrustedKeys
    ledger_id: str
    unsigned_up_to: int = 0

    @classmethod
    def from_lines(cls, keys: TrustedKeys, ledger_id: str, boundaries: Iterable[Entry]) -> Belief:
        """Return what counts, given the ledger's id and its ``boundary`` lines."""
        strict = cls(keys=keys, ledger_id=ledger_id)
        for entry in boundaries:
            if isinstance(entry.content, Boundary) and strict.why_not(entry) is None:
                return cls(
                    keys=keys,
                    ledger_id=ledger_id,
                    unsigned_up_to=min(entry.content.unsigned_up_to, entry.seq - 1),
                )
        return strict

    def why_not(self, entry: Entry) -> str | None:
        """Return why a line does not count; None if it does."""
        if isinstance(entry.content, Unreadable):
            return entry.content.why
        if entry.entry_hash != entry.computed_hash():
            return "it was changed after it was written"
        if isinstance(entry.content, LookLine):
            return self.why_no_look(
                entry.content, entry.name, entry.evidence_digest, is_first=entry.seq == 1
            )
        if entry.signature is None or entry.signature == "":
            return None if entry.seq <= self.unsigned_up_to else "it is not signed"
        return _why_not_signed(_LINE, entry.entry_hash, entry.signature, self.keys)

    def has_false_signature(self, entry: Entry) -> bool:
        """Return whether a line bears a signature of a known key that does not fit it."""
        if not entry.signature:
            return False
        return _why_not_signed(_LINE, entry.entry_hash, entry.signature, self.keys) == _MISFIT

    def counting(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the lines that count; of the same look sent twice, the first."""
        counted, nonces = [], set()
        for entry in entries:
            if self.why_not(entry) is not None:
                continue
            if isinstance(entry.content, LookLine):
                nonce = entry.content.statement["nonce"]
                if nonce in nonces:
                    continue
                nonces.add(nonce)
            counted.append(entry)
        return counted

    def moves(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the promotions and rollbacks that count."""
        return self.counting(entry for entry in entries if entry.event in MOVES)

    def why_no_look(
        self, look: LookLine, name: str, evidence_digest: str | None, *, is_first: bool
    ) -> str | None:
        """Return why a look does not count; None if a gate runner signed it for this ledger."""
        if look.key_id is None or look.signature is None or "nonce" not in look.statement:
            return "it is not signed by a gate runner"
        if look.statement.get("ledger") != (GENESIS if is_first else self.ledger_id):
            return "it was signed for another ledger"
        text = _statement(look, name, look.version, evidence_digest)
        runners = TrustedKeys(keys=self.keys.keys, revoked=self.keys.revoked)
        return _why_not_signed(_LOOK, text, f"{look.key_id}:{look.signature}", runners)


def _statement(look: LookLine, name: str, version: str | None, evidence_digest: str | None) -> str:
    about = {"name": name, "version": version, "evidence_digest": evidence_digest}
    return canonical_json({**look.statement, **about})


def _signed(prefix: bytes, text: str, key: Ed25519PrivateKey) -> str:
    signature = base64.b64encode(key.sign(prefix + text.encode())).decode()
    return f"{key_id(key.public_key())}:{signature}"


def _why_not_signed(prefix: bytes, text: str, signed: str, keys: TrustedKeys) -> str | None:
    """Return why a signature does not count; servers' keys count as well as gate runners'."""
    identity, _, signature = signed.partition(":")
    if identity in keys.revoked:
        return f"it is signed by {identity[:32]}, a revoked key"
    public = keys.keys.get(identity) or keys.servers.get(identity)
    if public is None:
        return f"it is signed by an unknown key, {identity[:32]}"
    raw = public.public_bytes_raw()
    if not _fits(raw, prefix + text.encode("utf-8", "surrogatepass"), signature):
        return _MISFIT
    return None


@functools.lru_cache(maxsize=1 << 14)
def _fits(public: bytes, message: bytes, signature: str) -> bool:
    try:
        raw = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(raw, message)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
