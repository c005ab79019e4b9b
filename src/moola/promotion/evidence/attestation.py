"""Signed evidence: what a gate runner found about one version, in a form nobody else can write.

Tags, metrics and artifacts of an MLflow server can be written by anyone who may edit a run, so they
prove nothing by themselves. Evidence is a canonical JSON text with an Ed25519 signature over it. It
names the version, its run and the digest of its files, so it cannot be moved to another model.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from cryptography.exceptions import InvalidSignature

from moola.config.names import TAG_GATES_RUN
from moola.config.promotion import ARTIFACT_EVIDENCE, TAG_EVIDENCE, PromotionPolicy
from moola.errors import PromotionRefused
from moola.hashing import canonical_json, sha256_json
from moola.promotion.calls import mlflow_call
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.entry import plain_name, plain_version

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient

Purpose = Literal["evaluation", "promotion", "rollback"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_PREFIX = b"moola evidence v1\n"
_EVALUATE = "Run `moola evaluate` on this version"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a gate runner vouches for.

    Parameters
    ----------
    purpose
        ``evaluation`` (the gates), ``promotion`` (the gates and the locked test windows, against a
        named champion) or ``rollback`` (an order to go back to this version).
    name, version
        The registered model and the version.
    run_id, gates_run_id
        The run that made the model and the run that evaluated it.
    model_sha256
        `moola.promotion.versions.digest.model_files_digest` of the version.
    model
        The model's name in Moola's registry of models.
    uses_encoder, uses_synthetic
        What the candidate is made of; decides which gates it needs.
    data
        Names and digests of the labelled set, split and folds; counts and seeds.
    thresholds_sha256
        Digest of the gate thresholds applied.
    verdicts, figures
        By gate number, as text.
    required_gates
        The gates the gate runner held to be required.
    report_sha256
        Digest of the whole gate report.
    champion
        The version in Production this was compared with (None: there was none). Not used for an
        evaluation.
    promotion_verdict, promotion_figures
        The verdict on the locked test windows; None where it was not looked at.
    test_looks
        How often that test set had been looked at, this look included.
    reason
        Why, for a rollback.
    asked_by
        Who asked for the promotion or rollback.
    created_at
        Time of signing, ISO 8601 in UTC.
    evaluated_at
        For a promotion, `created_at` of the evaluation it rests on; else None, which is not signed.
    key_id
        The id of the signing key.
    """

    purpose: Purpose
    name: str
    version: str
    run_id: str
    gates_run_id: str
    model_sha256: str
    model: str
    uses_encoder: bool
    uses_synthetic: bool
    data: Mapping[str, Any]
    thresholds_sha256: str
    verdicts: Mapping[str, str]
    figures: Mapping[str, Any]
    required_gates: tuple[int, ...]
    report_sha256: str
    created_at: str
    key_id: str
    champion: str | None = None
    promotion_verdict: str | None = None
    promotion_figures: Mapping[str, Any] | None = None
    test_looks: int | None = None
    reason: str | None = None
    asked_by: str | None = None
    evaluated_at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["required_gates"] = list(self.required_gates)
        if self.evaluated_at is None:  # evidence signed before there was this field keeps its form
            del values["evaluated_at"]
        return values

    @property
    def digest(self) -> str:
        """SHA-256 of the evidence's canonical JSON."""
        return sha256_json(self.to_dict())


@dataclass(frozen=True, kw_only=True)
class SignedEvidence:
    """Canonical JSON of an `Evidence`, the id of the key, and the signature in base64."""

    payload: str
    key_id: str
    signature: str

    def to_json(self) -> str:
        """Return the text that is stored as tag and artifact."""
        return canonical_json({"schema_version": 1, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the stored text; raises PromotionRefused if it is not signed evidence."""
        try:
            values = json.loads(text)
            fields = {k: values[k] for k in ("payload", "key_id", "signature")}
        except (ValueError, KeyError, TypeError, RecursionError):
            fields = {}
        if not fields or not all(isinstance(value, str) for value in fields.values()):
            raise PromotionRefused("the evidence is not readable", remedy=_EVALUATE)
        return cls(**fields)


def evidence_from_report(
    report: Mapping[str, Any],
    *,
    gates_run_id: str,
    policy: PromotionPolicy,
    key: Ed25519PrivateKey,
    now: datetime,
) -> Evidence:
    """Build the evidence of an evaluation from its gate report.

    Parameters
    ----------
    report
        The gate report, as stored in ``gate_report.json``.
    gates_run_id
        The evaluation run.
    policy
        The policy whose required gates are written down.
    key
        The key that is going to sign; only its id is used here.
    now
        The time of signing, with a time zone.

    Returns
    -------
    Evidence
        What is to be signed.

    Raises
    ------
    PromotionRefused
        If the report lacks a field or holds a figure that is not finite.
    """
    try:
        candidate, num_windows = report["candidate"], report["data"]["num_windows"]
        if type(num_windows) is not int:  # the record of the decision states it
            raise TypeError(f"num_windows is {num_windows!r}")
        evidence = Evidence(
            purpose="evaluation",
            name=str(candidate["name"]),
            version=str(candidate["version"]),
            run_id=str(candidate["run_id"]),
            gates_run_id=gates_run_id,
            model_sha256=str(candidate["model_sha256"]),
            model=str(candidate["model"]),
            uses_encoder=candidate["uses_encoder"] is not False,
            uses_synthetic=candidate["uses_synthetic"] is not False,
            data=dict(report["data"]),
            thresholds_sha256=str(report["thresholds_sha256"]),
            verdicts={str(gate["gate"]): str(gate["verdict"]) for gate in report["gates"]},
            figures={str(gate["gate"]): dict(gate["figures"]) for gate in report["gates"]},
            required_gates=policy.gates_for(
                uses_encoder=candidate["uses_encoder"] is not False,
                uses_synthetic=candidate["uses_synthetic"] is not False,
            ),
            report_sha256=sha256_json(report),
            created_at=now.astimezone(UTC).isoformat(),
            key_id=key_id(key.public_key()),
        )
        canonical_json(evidence.to_dict())
    except (KeyError, TypeError, ValueError) as error:
        raise PromotionRefused(
            f"the gate report cannot be signed ({type(error).__name__}: {error})",
            limit="a complete report with finite figures",
            remedy=_EVALUATE,
        ) from None
    return evidence


def sign(evidence: Evidence, private_key: Ed25519PrivateKey) -> SignedEvidence:
    """Sign evidence; its `key_id` must be that of the key.

    Parameters
    ----------
    evidence
        What is vouched for.
    private_key
        The gate runner's key.

    Returns
    -------
    SignedEvidence
        The evidence's canonical JSON with its signature.

    Raises
    ------
    PromotionRefused
        If the evidence names another key or holds a figure that is not finite.
    """
    identity = key_id(private_key.public_key())
    if evidence.key_id != identity:
        raise PromotionRefused(f"the evidence names key {evidence.key_id}", limit=identity)
    try:
        payload = canonical_json(evidence.to_dict())
    except (ValueError, TypeError) as error:
        raise PromotionRefused(f"the evidence cannot be signed: {error}") from None
    signature = private_key.sign(_PREFIX + payload.encode())
    return SignedEvidence(
        payload=payload, key_id=identity, signature=base64.b64encode(signature).decode()
    )


def verify(signed: SignedEvidence, trusted_keys: TrustedKeys) -> Evidence:
    """Return the evidence if a trusted, unrevoked key signed it.

    Parameters
    ----------
    signed
        The stored evidence.
    trusted_keys
        Keys whose signature counts.

    Returns
    -------
    Evidence
        What the signer vouches for.

    Raises
    ------
    PromotionRefused
        With the reason: unknown key, revoked key, or a signature that does not fit.
    """
    identity = signed.key_id
    if identity in trusted_keys.revoked:
        raise PromotionRefused(f"the evidence is signed by {identity}, a revoked key")
    public = trusted_keys.keys.get(identity)
    if public is None:
        counting = sorted(set(trusted_keys.keys) - trusted_keys.revoked)
        raise PromotionRefused(
            f"the evidence is signed by an unknown key, {identity[:64]}",
            limit=f"one of {', '.join(counting) or 'no trusted key at all'}",
        )
    try:
        signature = base64.b64decode(signed.signature, validate=True)
        public.verify(signature, _PREFIX + signed.payload.encode())
    except (InvalidSignature, binascii.Error, ValueError):
        raise PromotionRefused(
            "the signature does not fit the evidence: it was changed after signing",
            remedy=_EVALUATE,
        ) from None
    try:
        values = json.loads(signed.payload)
        values["required_gates"] = tuple(values["required_gates"])
        evidence = Evidence(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise PromotionRefused(f"the evidence has another form: {error}") from None
    if evidence.key_id != identity or evidence.purpose not in PURPOSES:
        raise PromotionRefused("the evidence contradicts its envelope", remedy=_EVALUATE)
    return evidence


def store_evidence(
    client: MlflowClient, signed: SignedEvidence, evidence: Evidence, *, tag: str = TAG_EVIDENCE
) -> None:
    """Store signed evidence as a tag of its version and, for an evaluation, in its gates run."""
    text = signed.to_json()
    with mlflow_call(f"the evidence of version {evidence.version} of {evidence.name}"):
        client.set_model_version_tag(evidence.name, evidence.version, tag, text)
        if evidence.purpose == "evaluation":
            client.set_model_version_tag(
                evidence.name, evidence.version, TAG_GATES_RUN, evidence.gates_run_id
            )
            client.log_text(evidence.gates_run_id, text, ARTIFACT_EVIDENCE)


def load_evidence(
    client: MlflowClient, name: str, version: str, *, tag: str = TAG_EVIDENCE
) -> SignedEvidence:
    """Read the signed evidence of a version from its tag.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version.
    tag
        Tag that carries the evidence.

    Returns
    -------
    SignedEvidence
        The evidence; its signature is still to be verified.

    Raises
    ------
    PromotionRefused
        If the version does not exist or carries no evidence.
    TrackingError
        If the server or store cannot be reached.
    """
    name, version = plain_name(name), plain_version(version)
    with mlflow_call(f"version {version} of {name}", reads=True):
        text = client.get_model_version(name, version).tags.get(tag)
    if not text:
        raise PromotionRefused(f"version {version} of {name} carries no evidence", remedy=_EVALUATE)
    return SignedEvidence.from_json(text)
