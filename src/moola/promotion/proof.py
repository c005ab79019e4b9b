"""Whether a line of the ledger proves what it says: its evidence, and what that is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moola.config.promotion import PromotionPolicy
from moola.errors import PromotionRefused
from moola.promotion.calls import mlflow_call
from moola.promotion.checks import check_evidence
from moola.promotion.digest import version_digest
from moola.promotion.evidence import Evidence, SignedEvidence, verify
from moola.promotion.keys import TrustedKeys
from moola.promotion.ledger import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient


def last_promotion(moves: list[Entry], version: str) -> Entry:
    """Return the entry of a version's last promotion; raises PromotionRefused without any."""
    proofs = [e for e in moves if e.event == "promotion" and e.version_to == version]
    if not proofs or "evidence" not in proofs[-1].payload:
        raise PromotionRefused(f"version {version} never held Production by Moola's ledger")
    return proofs[-1]


def evidence_in(promotion: Entry, trusted_keys: TrustedKeys) -> Evidence:
    """Return the evidence an entry of a promotion carries, its signature checked again.

    Raises
    ------
    PromotionRefused
        If the signature does not count, the entry names other evidence, or the evidence is no
        promotion's: an order to go back, or one whose promotion gate did not pass. Evidence of an
        evaluation counts, because a plain store asks for no signature over the promotion gate.
    """
    evidence = verify(SignedEvidence.from_json(promotion.payload["evidence"]), trusted_keys)
    if evidence.digest != promotion.evidence_digest:
        raise PromotionRefused(f"ledger entry {promotion.seq} carries other evidence than it names")
    verdict = evidence.promotion_verdict if evidence.purpose == "promotion" else "passed"
    if evidence.purpose == "rollback" or verdict != "passed":
        raise PromotionRefused(
            f"ledger entry {promotion.seq} carries evidence of a {evidence.purpose} whose "
            f"promotion gate is {evidence.promotion_verdict or 'absent'}",
            limit="evidence of a promotion that passed",
        )
    return evidence


def require_proof(
    client: MlflowClient,
    promotion: Entry,
    trusted_keys: TrustedKeys,
    *,
    policy: PromotionPolicy | None,
    model_sha256: str | None = None,
) -> Evidence:
    """Return the evidence of a promotion if it still carries the version as it is now.

    Parameters
    ----------
    client
        Client of the registry.
    promotion
        The entry; its name and `version_to` say which version.
    trusted_keys
        Keys whose signature counts.
    policy
        The policy in force, its limit of age left out. None asks for the gates that were required
        when the version was evaluated.
    model_sha256
        Digest of the version's files; None downloads them.

    Returns
    -------
    Evidence
        What the signer vouches for.

    Raises
    ------
    PromotionRefused
        With every reason: signature, name, version, run, files, gates, thresholds.
    """
    name, version = promotion.name, str(promotion.version_to)
    evidence = evidence_in(promotion, trusted_keys)
    with mlflow_call(f"version {version} of {name}", reads=True):
        run_id = client.get_model_version(name, version).run_id
    reasons = check_evidence(
        evidence,
        name=name,
        version=version,
        run_id=run_id,
        model_sha256=model_sha256 or version_digest(client, name, version),
        policy=policy or _then_required(evidence),
        now=None,
    )
    if reasons:
        raise PromotionRefused(f"version {version} is not proven: {'; '.join(reasons)}")
    return evidence


def _then_required(evidence: Evidence) -> PromotionPolicy:
    gates = evidence.required_gates
    return PromotionPolicy(required_gates=gates, encoder_gates=(), synthetic_gates=())
