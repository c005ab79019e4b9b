"""Whether a line of the ledger proves what it says: its evidence, and what that is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moola.config.promotion import PromotionPolicy
from moola.config.training import MODELS
from moola.errors import PromotionRefused
from moola.promotion.calls import mlflow_call
from moola.promotion.evidence.attestation import Evidence, SignedEvidence, verify
from moola.promotion.evidence.checks import check_evidence
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.ledger.belief import Belief
from moola.promotion.ledger.content import Move
from moola.promotion.ledger.entry import Entry
from moola.promotion.versions.digest import version_digest
from moola.promotion.versions.fetched import fetched

if TYPE_CHECKING:
    from mlflow import MlflowClient


def last_promotion(moves: list[Entry], version: str, belief: Belief) -> Entry:
    """Return the entry of a version's last promotion that counts.

    Raises
    ------
    PromotionRefused
        If there is none, or if none counts, and why.
    """
    proofs = [e for e in moves if e.event == "promotion" and e.version_to == version]
    proofs = [e for e in proofs if isinstance(e.content, Move) and e.content.evidence is not None]
    if not proofs:
        raise PromotionRefused(f"version {version} never held Production by Moola's ledger")
    why_not = {entry.seq: belief.why_not(entry) for entry in proofs}
    counting = [entry for entry in proofs if why_not[entry.seq] is None]
    if not counting:
        raise PromotionRefused(does_not_count(proofs[-1], str(why_not[proofs[-1].seq])))
    return counting[-1]


def does_not_count(entry: Entry, why: str) -> str:
    """Return the sentence that says which line does not count, and why."""
    version = f" of version {entry.version_to[:20]!a}" if entry.version_to else ""
    line = f"ledger entry {entry.seq} ({entry.event[:20]!a}{version})".replace("'", "")
    return f"{line} does not count: {why}"


def evidence_in(promotion: Entry, trusted_keys: TrustedKeys) -> Evidence:
    """Return the evidence an entry of a promotion carries, its signature checked again.

    Raises
    ------
    PromotionRefused
        If the signature does not count, the entry names other evidence, or the evidence is no
        promotion's: an order to go back, or one whose promotion gate did not pass. Evidence of an
        evaluation counts: plain stores took it before they asked for a signature over the
        promotion gate.
    """
    content = promotion.content
    text = content.evidence if isinstance(content, Move) else None
    evidence = verify(SignedEvidence.from_json(text or ""), trusted_keys)
    if evidence.digest != promotion.evidence_digest:
        raise PromotionRefused(f"ledger entry {promotion.seq} carries other evidence than it names")
    require_promotion(evidence, f"ledger entry {promotion.seq}")
    return evidence


def require_promotion(evidence: Evidence, what: str) -> None:
    """Raise PromotionRefused if evidence is of an order to go back, or of a gate not passed."""
    verdict = evidence.promotion_verdict if evidence.purpose == "promotion" else "passed"
    if evidence.purpose == "rollback" or verdict != "passed":
        raise PromotionRefused(
            f"{what} carries evidence of a {evidence.purpose} whose "
            f"promotion gate is {evidence.promotion_verdict or 'absent'}",
            limit="evidence of a promotion that passed",
        )


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
    evidence = evidence_in(promotion, trusted_keys)
    version = str(promotion.version_to)
    require_carries(
        client, evidence, promotion.name, version, policy=policy, model_sha256=model_sha256
    )
    return evidence


def require_carries(
    client: MlflowClient,
    evidence: Evidence,
    name: str,
    version: str,
    *,
    policy: PromotionPolicy | None,
    model_sha256: str | None = None,
) -> None:
    """Raise PromotionRefused unless evidence carries a version as it is now, whatever its age."""
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


def own_file_findings(
    client: MlflowClient, name: str, version: str, evidence: Evidence, *, data_root: Path | None
) -> list[str]:
    """Return what is wrong with the files of a promoted version of one of Moola's own models.

    Evidence signed before Moola read files this closely may carry a version whose class names
    were swapped or whose code is a stranger's.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version.
    evidence
        Verified evidence of its promotion; it says which model was judged.
    data_root
        Root of the data store, which knows the classes of a labelled set; None: there is none.

    Returns
    -------
    list of str
        Sentences; empty if nothing is wrong, or the model is of another make.
    """
    from moola.promotion.versions.packaging import packaging_findings  # torch: not for `moola keys`

    if evidence.model not in MODELS:
        return []
    try:
        with fetched(client, name, version) as folder:
            return packaging_findings(folder, evidence, data_root=data_root)
    except PromotionRefused as refusal:
        return [str(refusal).rstrip(".")]


def _then_required(evidence: Evidence) -> PromotionPolicy:
    gates = evidence.required_gates
    return PromotionPolicy(required_gates=gates, encoder_gates=(), synthetic_gates=())
