"""DSSE envelopes around in-toto statements: signed so that strangers can check them.

DSSE (https://github.com/secure-systems-lab/dsse) signs the payload's type and bytes, so nothing has
to be brought into a canonical form before it is checked. An envelope is one JSON text in one
spelling: any other spelling of the same content is refused, so that its SHA-256 names it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moola.errors import PromotionRefused, shown
from moola.hashing import canonical_json
from moola.promotion.evidence.keys import PrivateKey, PublicKey, TrustedKeys, key_id
from moola.promotion.ledger.bounded_json import read_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_ENVELOPE = 1 << 20
_MAX_SUBJECTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Statement:
    """An in-toto Statement v1: what is said about which files.

    Parameters
    ----------
    subject
        SHA-256 of every file of the version, by its path.
    predicate_type
        Address that says how to read the predicate.
    predicate
        What is said.
    """

    subject: Mapping[str, str]
    predicate_type: str
    predicate: Mapping[str, Any]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the statement as in-toto writes it."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": path, "digest": {"sha256": digest}}
                for path, digest in sorted(self.subject.items())
            ],
            "predicateType": self.predicate_type,
            "predicate": dict(self.predicate),
        }

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Read a statement; raises PromotionRefused for anything but the form that is written."""
        try:
            values = read_json(payload.decode("utf-8"), max_chars=MAX_ENVELOPE)
        except ValueError as error:
            raise PromotionRefused(
                f"the statement cannot be read: {error}", limit="JSON of an in-toto statement"
            ) from None
        fields = {"_type", "subject", "predicateType", "predicate"}
        if not isinstance(values, dict) or set(values) != fields:
            raise PromotionRefused("the statement is none", limit=", ".join(sorted(fields)))
        if values["_type"] != STATEMENT_TYPE:
            raise PromotionRefused(
                f"the statement is a {shown(values['_type'])}", limit=STATEMENT_TYPE
            )
        if not isinstance(values["predicateType"], str) or type(values["predicate"]) is not dict:
            raise PromotionRefused("the statement's predicate cannot be read", limit="an object")
        return cls(
            subject=_subject(values["subject"]),
            predicate_type=values["predicateType"],
            predicate=values["predicate"],
        )


@dataclass(frozen=True, kw_only=True)
class DsseEnvelope:
    """A signed statement.

    Parameters
    ----------
    payload
        The statement's bytes, which were signed.
    key_id
        Id of the key that signed them.
    signature
        64 bytes for Ed25519; DER for P-256.
    """

    payload: bytes
    key_id: str
    signature: bytes

    def to_json(self) -> str:
        """Return the envelope in its one spelling."""
        signature = base64.b64encode(self.signature).decode()
        return canonical_json({
            "payload": base64.b64encode(self.payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": self.key_id, "sig": signature}],
        })  # fmt: skip

    @property
    def digest(self) -> str:
        """SHA-256 of the envelope, by which it is kept and named."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read an envelope.

        Raises
        ------
        PromotionRefused
            If it is no envelope with one signature in its one spelling, too large or too deep.
        """
        if len(text) > MAX_ENVELOPE:
            raise PromotionRefused(
                f"the envelope has {len(text)} characters", limit=f"at most {MAX_ENVELOPE}"
            )
        try:
            values = read_json(text, max_chars=MAX_ENVELOPE)
            [one] = values["signatures"]
            envelope = cls(
                payload=base64.b64decode(values["payload"], validate=True),
                key_id=str(one["keyid"]),
                signature=base64.b64decode(one["sig"], validate=True),
            )
            spelling = envelope.to_json()
        except (ValueError, TypeError, KeyError, binascii.Error) as error:
            problem = f"the envelope cannot be read: {error or 'it is none'}"
            raise PromotionRefused(problem, limit="DSSE with one signature") from None
        if spelling != text:
            raise PromotionRefused(
                "the envelope is not in its one spelling",
                limit="canonical JSON of payload, payloadType and one signature",
            )
        return envelope

    def why_not_signed(self, keys: TrustedKeys) -> str | None:
        """Return why no trusted key signed it; None if one did."""
        if self.key_id in keys.revoked:
            return f"it is signed by {self.key_id[:32]}, a revoked key"
        public = keys.attesters.get(self.key_id)
        if public is None:
            return f"it is signed by an unknown key, {shown(self.key_id[:32])}"
        return None if _fits(public, self.signature, self.payload) else "its signature does not fit"


def seal(statement: Statement, key: PrivateKey) -> DsseEnvelope:
    """Return a statement signed with an Ed25519 or P-256 key."""
    payload = canonical_json(statement.to_dict()).encode()
    message = _encoded(payload)
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(message)
    else:
        signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    return DsseEnvelope(payload=payload, key_id=key_id(key.public_key()), signature=signature)


def _fits(public: PublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        if isinstance(public, Ed25519PublicKey):
            public.verify(signature, _encoded(payload))
        else:
            public.verify(signature, _encoded(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _encoded(payload: bytes) -> bytes:
    """Return the pre-authentication encoding (PAE) of DSSE v1, over which is signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _subject(entries: Any) -> dict[str, str]:
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_SUBJECTS:
        raise PromotionRefused("the statement names no files", limit=f"1 to {_MAX_SUBJECTS}")
    subject: dict[str, str] = {}
    for entry in entries:
        try:
            name, digest = entry["name"], entry["digest"]["sha256"]
        except (TypeError, KeyError):
            name = digest = None
        if type(name) is not str or type(digest) is not str or len(digest) != 64:
            raise PromotionRefused(
                "a file of the statement cannot be read", limit="a name and its SHA-256"
            )
        if name in subject:
            raise PromotionRefused(
                f"the statement names file {shown(name)} twice", limit="each file once"
            )
        subject[name] = digest
    return subject
