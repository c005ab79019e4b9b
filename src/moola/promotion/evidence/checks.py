"""Whether verified evidence carries a version under the policy in force."""

from __future__ import annotations

from datetime import datetime, timedelta

from moola.config.promotion import PromotionPolicy
from moola.promotion.evidence.attestation import Evidence

_CLOCKS_APART = timedelta(minutes=5)


def check_evidence(
    evidence: Evidence,
    *,
    name: str,
    version: str,
    run_id: str | None,
    model_sha256: str | None,
    policy: PromotionPolicy,
    now: datetime | None,
) -> list[str]:
    """Return every reason why verified evidence does not carry this version; empty if it does.

    `model_sha256` is the digest of the version's files; None leaves them out, for a caller that
    reads them only once all else is good. `now` is the time at which the evidence must not be too
    old; None leaves its age out, for a version that was promoted while it counted.
    """
    reasons = []
    if (evidence.name, evidence.version) != (name, version):
        subject = f"version {evidence.version} of {evidence.name}"
        reasons.append(f"the evidence is about {subject}, not version {version} of {name}")
    if evidence.run_id != (run_id or ""):
        reasons.append(f"the evidence is about run {evidence.run_id}, the version has run {run_id}")
    if model_sha256 is not None and (changed := changed_files(evidence, model_sha256)):
        reasons.append(changed)
    accepted = policy.thresholds_sha256
    if accepted and evidence.thresholds_sha256 not in accepted:
        reasons.append(
            f"the gates were judged by thresholds {evidence.thresholds_sha256[:12]}, "
            f"in force are {', '.join(digest[:12] for digest in accepted)}"
        )
    reasons += _failed_gates(evidence, policy)
    if policy.fresh_windows_only and evidence.purpose == "promotion" and evidence.test_looks != 1:
        reasons.append(
            f"its test windows were looked at before (look {evidence.test_looks}), and the policy "
            "asks for windows that nobody has looked at"
        )
    return reasons + ([] if now is None else _too_old(evidence, policy, now))


def changed_files(evidence: Evidence, model_sha256: str) -> str | None:
    """Return that a version's files are not those evaluated, None if they are."""
    if evidence.model_sha256 == model_sha256:
        return None
    return (
        "the model's files were changed after the evaluation "
        f"(SHA-256 {model_sha256[:12]}, evaluated {evidence.model_sha256[:12]})"
    )


def _failed_gates(evidence: Evidence, policy: PromotionPolicy) -> list[str]:
    required = policy.gates_for(
        uses_encoder=evidence.uses_encoder, uses_synthetic=evidence.uses_synthetic
    )
    verdicts = {str(gate): evidence.verdicts.get(str(gate), "absent") for gate in required}
    # whatever the policy requires: what is too good to be true passes nothing until it is answered
    verdicts |= {gate: verdict for gate, verdict in evidence.verdicts.items() if verdict == "held"}
    return [
        f"gate {gate} is {verdict}, not passed"
        for gate, verdict in verdicts.items()
        if verdict != "passed"
    ]


def _too_old(evidence: Evidence, policy: PromotionPolicy, now: datetime) -> list[str]:
    if policy.max_evidence_age_days is None:
        return []
    evaluated = evidence.evaluated_at if evidence.purpose == "promotion" else evidence.created_at
    try:
        age = now - datetime.fromisoformat(str(evaluated))
    except (ValueError, TypeError):
        return [f"the evidence bears no readable time of its evaluation ({evaluated!r})"]
    if age < -_CLOCKS_APART:
        return [f"the evidence is of {evaluated}, in the future; set the clocks right"]
    days = age.total_seconds() / 86400
    if days <= policy.max_evidence_age_days:
        return []
    return [f"the evidence is {days:.1f} days old, at most {policy.max_evidence_age_days:g} count"]
