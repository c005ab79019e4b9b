"""Whether verified evidence carries a version under the policy in force."""

from __future__ import annotations

from datetime import datetime

from moola.config.promotion import PromotionPolicy
from moola.promotion.evidence import Evidence


def check_evidence(
    evidence: Evidence,
    *,
    name: str,
    version: str,
    run_id: str | None,
    model_sha256: str,
    policy: PromotionPolicy,
    now: datetime,
) -> list[str]:
    """Return every reason why verified evidence does not carry this version; empty if it does."""
    reasons = []
    if (evidence.name, evidence.version) != (name, version):
        subject = f"version {evidence.version} of {evidence.name}"
        reasons.append(f"the evidence is about {subject}, not version {version} of {name}")
    if evidence.run_id != (run_id or ""):
        reasons.append(f"the evidence is about run {evidence.run_id}, the version has run {run_id}")
    if evidence.model_sha256 != model_sha256:
        reasons.append(
            "the model's files were changed after the evaluation "
            f"(SHA-256 {model_sha256[:12]}, evaluated {evidence.model_sha256[:12]})"
        )
    accepted = policy.thresholds_sha256
    if accepted and evidence.thresholds_sha256 not in accepted:
        reasons.append(
            f"the gates were judged by thresholds {evidence.thresholds_sha256[:12]}, "
            f"in force are {', '.join(digest[:12] for digest in accepted)}"
        )
    reasons += _failed_gates(evidence, policy)
    return reasons + _too_old(evidence, policy, now)


def _failed_gates(evidence: Evidence, policy: PromotionPolicy) -> list[str]:
    required = policy.gates_for(
        uses_encoder=evidence.uses_encoder, uses_synthetic=evidence.uses_synthetic
    )
    verdicts = {gate: evidence.verdicts.get(str(gate), "absent") for gate in required}
    return [
        f"gate {gate} is {verdict}, not passed"
        for gate, verdict in verdicts.items()
        if verdict != "passed"
    ]


def _too_old(evidence: Evidence, policy: PromotionPolicy, now: datetime) -> list[str]:
    if policy.max_evidence_age_days is None:
        return []
    try:
        age = now - datetime.fromisoformat(evidence.created_at)
    except (ValueError, TypeError):
        return [f"the evidence bears no readable time ({evidence.created_at!r})"]
    days = age.total_seconds() / 86400
    if days <= policy.max_evidence_age_days:
        return []
    return [f"the evidence is {days:.1f} days old, at most {policy.max_evidence_age_days:g} count"]
