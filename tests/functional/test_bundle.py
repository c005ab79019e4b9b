"""A bundle of attestations, checked by programs that know nothing of Moola."""

from __future__ import annotations

import base64
import json
import random
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from moola.errors import PromotionRefused
from moola.promotion.evidence.envelope import DsseEnvelope
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.evidence.predicates import About, SuiteRun, attest, read_attestation

pytestmark = pytest.mark.medium

ED25519, P256 = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
KEYS = {"ed25519": ED25519, "p256": P256}
TRUSTED = TrustedKeys(
    keys={key_id(ED25519.public_key()): ED25519.public_key()},
    p256={key_id(P256.public_key()): P256.public_key()},
)
ABOUT = About(model="churn", version="7", run_id="r", created_at="2026-03-01T12:00:00+00:00")
RUN = SuiteRun(passed=True, command=("pytest",), exit_code=0, seconds=1.0, names=("a::b",))
FILES = {"MLmodel": "a" * 64, "model.pkl": "b" * 64}


def sealed(kind: str) -> str:
    return attest(ABOUT, RUN, FILES, KEYS[kind]).to_json()


def takes_securesystemslib(text: str, kind: str) -> bool:
    """Return whether the library takes an envelope, whatever it raises where it does not."""
    public = KEYS[kind].public_key()
    key = SSlibKey.from_crypto(public, keyid=key_id(public))
    try:
        Envelope.from_dict(json.loads(text)).verify([key], threshold=1)
    except Exception:
        return False
    return True


def takes_moola(text: str) -> bool:
    try:
        read_attestation(text, TRUSTED)
    except PromotionRefused:
        return False
    return True


class OpenSsl:
    """The command line, given the two files that a reader makes of an envelope."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        pem = KEYS[kind].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "public.pem").write_bytes(pem)

    def takes(self, text: str) -> bool:
        try:
            values = json.loads(text)
            kind, payload = values["payloadType"].encode(), base64.b64decode(values["payload"])
            signature = base64.b64decode(values["signatures"][0]["sig"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False
        signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        (self.folder / "signed").write_bytes(signed)
        (self.folder / "signature").write_bytes(signature)
        verify = {
            "ed25519": ["pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin",
                        "-in", "signed", "-sigfile", "signature"],
            "p256": ["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature",
                     "signed"],
        }  # fmt: skip
        done = subprocess.run(
            ["openssl", *verify[self.kind]], cwd=self.folder, capture_output=True, check=False
        )
        return done.returncode == 0


def meaning(text: str) -> Any:
    """Return what a lenient reader makes of an envelope: payload, its type and signatures."""
    values = json.loads(text)
    return (
        base64.b64decode(values["payload"]),
        values["payloadType"],
        [base64.b64decode(one["sig"]) for one in values["signatures"]],
    )


def changes(text: str, count: int) -> list[str]:
    """Return texts that differ from an envelope in one character."""
    draw = random.Random(11)
    changed = []
    for _ in range(count):
        at = draw.randrange(len(text))
        other = draw.choice([c for c in string.printable if c != text[at]])
        changed.append(text[:at] + other + text[at + 1 :])
    return changed


@pytest.mark.parametrize("kind", KEYS)
def test_an_envelope_is_taken_by_each(kind: str, tmp_path: Path) -> None:
    text = sealed(kind)
    assert takes_securesystemslib(text, kind)
    assert OpenSsl(tmp_path, kind).takes(text)
    assert takes_moola(text)


@pytest.mark.parametrize("kind", KEYS)
def test_of_ten_thousand_changed_bytes_only_other_spellings_are_taken(kind: str) -> None:
    """Moola takes none; a lenient reader may take bits of base64 that mean nothing."""
    text = sealed(kind)
    taken = 0
    for changed in changes(text, 10_000):
        assert not takes_moola(changed)
        if takes_securesystemslib(changed, kind):
            taken += 1
            assert Envelope.from_dict(json.loads(changed)) == Envelope.from_dict(json.loads(text))
    assert taken < 100


@pytest.mark.parametrize(
    "count", [100, pytest.param(10_000, marks=pytest.mark.slow)], ids=["100", "10000"]
)
@pytest.mark.parametrize("kind", KEYS)
def test_changed_bytes_by_openssl(kind: str, count: int, tmp_path: Path) -> None:
    text, openssl = sealed(kind), OpenSsl(tmp_path, kind)
    for changed in changes(text, count):
        if openssl.takes(changed):
            assert meaning(changed) == meaning(text)


def test_the_payload_is_what_was_signed() -> None:
    envelope = DsseEnvelope.from_json(sealed("ed25519"))
    assert json.loads(envelope.payload)["_type"] == "https://in-toto.io/Statement/v1"
