"""Promotion: check everything, look at the locked test windows last, then move Production."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from moola.config.promotion import TAG_PROMOTION_EVIDENCE, PromotionPolicy
from moola.errors import ConfigError, PromotionRefused
from moola.hashing import canonical_json
from moola.promotion.calls import mlflow_call
from moola.promotion.checks import check_evidence
from moola.promotion.decision import Decision, GateDict, Look, PromotionDenied, PromotionGate
from moola.promotion.digest import version_digest
from moola.promotion.evidence import Evidence, SignedEvidence, load_evidence, sign, store_evidence
from moola.promotion.evidence import verify as verify_evidence
from moola.promotion.keys import TrustedKeys, key_id
from moola.promotion.ledger import Draft, Entry, Ledger
from moola.promotion.recovery import last_move, move, recover
from moola.promotion.state import read_state

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient

_UNGUARDED = (
    "this store has no guard: whoever writes to it can move Production past these checks; "
    "`moola server` guards it"
)


@dataclass(kw_only=True)
class _Attempt:
    """What is known so far about one request; turned into a `Decision` at its end."""

    ledger: Ledger
    name: str
    version: str
    who: str
    dry_run: bool
    champion: str | None = None
    signed: SignedEvidence | None = None
    evidence: Evidence | None = None
    gate: GateDict | None = None
    looks: int | None = None

    def decision(self, *, reasons: list[str], entry: Entry | None, notes: list[str]) -> Decision:
        return Decision(
            action="promotion",
            allowed=not reasons,
            name=self.name,
            version=self.version,
            champion_before=self.champion,
            who=self.who,
            decided_at=self.ledger.clock().astimezone(UTC).isoformat(),
            reasons=tuple(reasons),
            notes=tuple(notes),
            evidence_digest=self.evidence.digest if self.evidence else None,
            ledger_seq=entry.seq if entry else None,
            test_looks=self.looks,
            promotion_gate=self.gate,
            dry_run=self.dry_run,
        )

    def draft(self, event: str, reason: str, **payload: Any) -> Draft:
        return Draft(
            event=event,
            who=self.who,
            name=self.name,
            reason=reason,
            version_from=self.champion,
            version_to=self.version,
            evidence_digest=self.evidence.digest if self.evidence else None,
            payload=payload,
        )

    def refuse(self, reasons: list[str], *, remedy: str | None = None) -> PromotionDenied:
        """Write the refusal down (not for a dry run) and return the error to raise."""
        entry = None
        if not self.dry_run:
            entry = self.ledger.append(self.draft("refusal", "; ".join(reasons), reasons=reasons))
        return PromotionDenied(self.decision(reasons=reasons, entry=entry, notes=[]), remedy=remedy)


def promote(
    *,
    client: MlflowClient,
    ledger: Ledger,
    name: str,
    version: str,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
    promotion_gate: PromotionGate,
    who: str,
    signing_key: Ed25519PrivateKey | None = None,
    evidence: SignedEvidence | None = None,
    dry_run: bool = False,
) -> Decision:
    """Put a version into Production if everything speaks for it.

    The order is fixed: an interrupted move is finished; signature, version, run, digest, policy and
    gates are checked; `promotion_gate` says whether it can look; the look at the locked test
    windows is written down, then taken; alias ``production`` and stage ``Production`` move together
    and the old version is archived.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    version
        The version that shall be promoted.
    trusted_keys
        Keys whose signature counts.
    policy
        The policy in force.
    promotion_gate
        Makes the look at the locked test windows ready, once all else is found good, or raises why
        not. The look is taken once, after it was written down, and not for a dry run.
    who
        Who asks; goes into the ledger.
    signing_key
        The gate runner's key, which signs what the promotion gate found. A guarded server asks for
        it; without one the evaluation's evidence alone goes into the ledger.
    evidence
        Signed evidence of the evaluation; None reads it from the version's tag.
    dry_run
        Check all but the locked test windows, and change nothing.

    Returns
    -------
    Decision
        The promotion, or for a dry run that nothing stands against it so far.

    Raises
    ------
    PromotionDenied
        (a `PromotionRefused`) with every reason found; it stands in the ledger as a refusal.
    TrackingError
        If registry or ledger cannot be reached.
    ConfigError
        If a guarded server is asked without a signing key.
    """
    attempt = _Attempt(ledger=ledger, name=name, version=version, who=who, dry_run=dry_run)
    if ledger.moves_by_server and signing_key is None and not dry_run:
        raise ConfigError("there is no signing key", limit="one that the guarded server trusts")
    try:
        notes = [] if dry_run else _recovered(client, ledger, name, trusted_keys, policy)
        seen_move = last_move(ledger, name)
        attempt.champion = read_state(client, name).champion
        attempt.signed = evidence or load_evidence(client, name, version)
        attempt.evidence = verify_evidence(attempt.signed, trusted_keys)
        reasons = _reasons_against(client, attempt, policy)
        if reasons:
            raise attempt.refuse(reasons)
        look = promotion_gate(attempt.evidence, attempt.champion)
    except PromotionDenied:
        raise
    except PromotionRefused as refusal:
        raise attempt.refuse([str(refusal).rstrip(".")]) from refusal
    if dry_run:
        notes.append("dry run: the locked test windows were not looked at and nothing was changed")
        return attempt.decision(reasons=[], entry=None, notes=notes)
    _take_look(attempt, look)
    try:
        _sign_promotion(client, attempt, signing_key)
        draft = attempt.draft("promotion", _summary(attempt), **_payload(attempt))
        entry = move(client, ledger, draft, seen_move=seen_move)
    except PromotionRefused as refusal:
        raise attempt.refuse([str(refusal).rstrip(".")]) from refusal
    if not ledger.moves_by_server:
        notes.append(_UNGUARDED)
    return attempt.decision(reasons=[], entry=entry, notes=notes)


def _recovered(
    client: MlflowClient,
    ledger: Ledger,
    name: str,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
) -> list[str]:
    entry = recover(client, ledger, name, trusted_keys=trusted_keys, policy=policy)
    if entry is None:
        return []
    return [f"an interrupted move was closed first: {entry.event} of version {entry.version_to}"]


def _reasons_against(client: MlflowClient, attempt: _Attempt, policy: PromotionPolicy) -> list[str]:
    assert attempt.evidence is not None
    with mlflow_call(f"version {attempt.version} of {attempt.name}"):
        run_id = client.get_model_version(attempt.name, attempt.version).run_id
    reasons = check_evidence(
        attempt.evidence,
        name=attempt.name,
        version=attempt.version,
        run_id=run_id,
        model_sha256=version_digest(client, attempt.name, attempt.version),
        policy=policy,
        now=attempt.ledger.clock(),
    )
    if attempt.champion == attempt.version:
        reasons.append("it already holds Production")
    if attempt.evidence.purpose != "evaluation":
        reasons.append(f"the evidence was made for a {attempt.evidence.purpose}")
    return reasons


def _take_look(attempt: _Attempt, look: Look) -> None:
    """Write the test look down, ask the promotion gate, refuse unless it passed."""
    assert attempt.evidence is not None
    data = attempt.evidence.data
    split = {"split": data.get("split"), "split_sha256": str(data.get("split_sha256", ""))}
    windows = {**look.windows, **split}
    beside = f"version {attempt.version} beside {attempt.champion or 'no champion'}"
    attempt.ledger.append(attempt.draft("test_look", beside, **windows))
    attempt.looks = attempt.ledger.count_test_looks(windows)
    gate = dict(look.take(attempt.looks))
    try:
        canonical_json(gate)
    except (ValueError, TypeError) as error:
        raise attempt.refuse([f"the promotion gate's figures are not finite ({error})"]) from None
    attempt.gate = gate
    if gate.get("verdict") != "passed":
        why = [str(reason) for reason in gate.get("reasons") or []]
        raise attempt.refuse([f"the promotion gate is {gate.get('verdict', 'absent')}", *why])


def _sign_promotion(
    client: MlflowClient, attempt: _Attempt, signing_key: Ed25519PrivateKey | None
) -> None:
    """Sign what the promotion gate found and store it where a guarded server looks for it."""
    if signing_key is None:
        return
    assert attempt.evidence is not None
    assert attempt.gate is not None
    attempt.evidence = dataclasses.replace(
        attempt.evidence,
        purpose="promotion",
        champion=attempt.champion,
        promotion_verdict=str(attempt.gate["verdict"]),
        promotion_figures=dict(attempt.gate.get("figures") or {}),
        test_looks=attempt.looks,
        asked_by=attempt.who,
        evaluated_at=attempt.evidence.created_at,
        created_at=attempt.ledger.clock().astimezone(UTC).isoformat(),
        key_id=key_id(signing_key.public_key()),
    )
    attempt.signed = sign(attempt.evidence, signing_key)
    store_evidence(client, attempt.signed, attempt.evidence, tag=TAG_PROMOTION_EVIDENCE)


def _summary(attempt: _Attempt) -> str:
    beside = f"version {attempt.champion}" if attempt.champion else "no champion"
    return f"all required gates passed; promotion gate passed beside {beside}"


def _payload(attempt: _Attempt) -> dict[str, Any]:
    assert attempt.evidence is not None
    assert attempt.signed is not None
    return {
        "evidence": attempt.signed.to_json(),
        "model_sha256": attempt.evidence.model_sha256,
        "run_id": attempt.evidence.run_id,
        "gates_run_id": attempt.evidence.gates_run_id,
        "test_looks": attempt.looks,
        "promotion_gate": dict(attempt.gate or {}),
    }
