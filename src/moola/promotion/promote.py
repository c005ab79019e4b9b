"""Promotion: check everything, look at the locked test windows last, then move Production."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moola.config.promotion import TAG_PROMOTION_EVIDENCE, PromotionPolicy
from moola.errors import PromotionRefused
from moola.hashing import canonical_json
from moola.promotion.aliases.proof import reasons_beside_gates
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision, GateDict, Look, PromotionDenied, PromotionGate
from moola.promotion.evidence.attestation import (
    Evidence,
    SignedEvidence,
    load_evidence,
    sign,
    store_evidence,
)
from moola.promotion.evidence.attestation import verify as verify_evidence
from moola.promotion.evidence.checks import check_evidence
from moola.promotion.evidence.keys import key_id
from moola.promotion.ledger.base import LedgerView, write_refusal
from moola.promotion.ledger.belief import signed_look
from moola.promotion.ledger.content import Event
from moola.promotion.ledger.entry import Draft, Entry, plain_version
from moola.promotion.moving import Precondition, move
from moola.promotion.parts import ProductionParts
from moola.promotion.recovery import recover
from moola.promotion.state import read_state
from moola.promotion.versions.digest import version_digest

_UNGUARDED = (
    "this store has no guard: whoever writes to it can move Production past these checks; "
    "`moola server` guards it"
)


@dataclass(kw_only=True)
class _Attempt:
    """What is known so far about one request; turned into a `Decision` at its end."""

    parts: ProductionParts
    version: str
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
            name=self.parts.name,
            version=self.version,
            champion_before=self.champion,
            who=self.parts.who,
            decided_at=self.parts.now(),
            reasons=tuple(reasons),
            notes=tuple(notes),
            evidence_digest=self.evidence.digest if self.evidence else None,
            ledger_seq=entry.seq if entry else None,
            test_looks=self.looks,
            promotion_gate=self.gate,
            dry_run=self.dry_run,
        )

    def draft(self, event: Event, reason: str, **payload: Any) -> Draft:
        return Draft(
            event=event,
            who=self.parts.who,
            name=self.parts.name,
            reason=reason,
            version_from=self.champion,
            version_to=self.version,
            evidence_digest=self.evidence.digest if self.evidence else None,
            payload=payload,
        )

    def refuse(self, reasons: list[str], *, remedy: str | None = None) -> PromotionDenied:
        """Write the refusal down (not for a dry run) and return the error to raise."""
        entry: Entry | None = None
        notes: list[str] = []
        if not self.dry_run:
            draft = self.draft("refusal", "; ".join(reasons), reasons=reasons)
            entry, notes = write_refusal(self.parts.ledger, draft)
        decision = self.decision(reasons=reasons, entry=entry, notes=notes)
        return PromotionDenied(decision, remedy=remedy)


def promote(
    parts: ProductionParts,
    version: str,
    gate: PromotionGate,
    *,
    evidence: SignedEvidence | None = None,
    dry_run: bool = False,
) -> Decision:
    """Put a version into Production if everything speaks for it.

    The order is fixed: the ledger's chain is checked; an interrupted move is finished; signature,
    version, run, digest, policy and gates are checked; `gate` says whether it can look; the look at
    the locked test windows is signed and written down, then taken; on a plain store all is checked
    again; alias ``production`` and stage ``Production`` move together and the old version is
    archived.

    Parameters
    ----------
    parts
        Of the model.
    version
        The version that shall be promoted, as digits or an integer.
    gate
        Makes the look at the locked test windows ready, once all else is good, or raises why not.
        The look is taken once, after it was written down, and not for a dry run.
    evidence
        Signed evidence of the evaluation; None reads it from the version's tag.
    dry_run
        Check all but the locked test windows, and change nothing.

    Returns
    -------
    Decision
        The promotion, or for a dry run that nothing is against it so far.

    Raises
    ------
    PromotionDenied
        (a `PromotionRefused`) with every reason; the ledger holds it as a refusal.
    PromotionRefused
        If the ledger's chain is broken.
    TrackingError
        If registry or ledger cannot be reached.
    BadInput
        If the version is no such thing.
    ConfigError
        If there is no signing key that counts.
    """
    version = plain_version(version)
    if not dry_run:
        parts = parts.signing()
    client, ledger = parts.client, parts.ledger
    view = ledger.read(parts.keys)
    attempt = _Attempt(parts=parts, version=version, dry_run=dry_run)
    try:
        notes = []
        if not dry_run and (entry := recover(parts, view)):
            closed = f"{entry.event} of version {entry.version_to}"
            notes.append(f"an interrupted move was closed first: {closed}")
            view = ledger.read(parts.keys)
        state = read_state(client, parts.name)
        attempt.champion = state.champion
        attempt.signed = evidence or load_evidence(client, parts.name, version)
        attempt.evidence = verify_evidence(attempt.signed, parts.keys)
        reasons = _reasons_against(attempt)
        if reasons:
            raise attempt.refuse(reasons)
        look = gate(attempt.evidence, attempt.champion)
    except PromotionDenied:
        raise
    except PromotionRefused as refusal:
        raise attempt.refuse([str(refusal).rstrip(".")]) from refusal
    if dry_run:
        notes.append("dry run: the locked test windows were not looked at and nothing was changed")
        return attempt.decision(reasons=[], entry=None, notes=notes)
    notes += _looks_left_out(view)
    _take_look(attempt, look)
    try:
        evaluation = attempt.evidence
        _sign_promotion(attempt)
        draft = attempt.draft("promotion", _summary(attempt), **_payload(attempt))
        precondition = Precondition(
            state=state,
            last_move=view.last_move(parts.name),
            check=lambda: _check_again(attempt, evaluation),
            keys=parts.keys,
        )
        entry = move(client, ledger, draft, precondition=precondition)
    except PromotionRefused as refusal:
        raise attempt.refuse([str(refusal).rstrip(".")]) from refusal
    if not ledger.moves_by_server:
        notes.append(_UNGUARDED)
    return attempt.decision(reasons=[], entry=entry, notes=notes)


def _reasons_against(attempt: _Attempt) -> list[str]:
    assert attempt.evidence is not None
    reasons = _not_carried(attempt, attempt.evidence, attempt.parts.policy)
    reasons += reasons_beside_gates(attempt.parts, attempt.parts.rules, attempt.version)
    if attempt.champion == attempt.version:
        reasons.append("it already holds Production")
    if attempt.evidence.purpose != "evaluation":
        reasons.append(f"the evidence was made for a {attempt.evidence.purpose}")
    return reasons


def _check_again(attempt: _Attempt, evaluation: Evidence) -> None:
    """Check files, keys and policy once more, as they are at the moment of the move."""
    keys, rules = attempt.parts.policy_now()
    assert attempt.signed is not None
    verify_evidence(attempt.signed, keys)
    reasons = _not_carried(attempt, evaluation, rules.ohlc)
    reasons += reasons_beside_gates(attempt.parts, rules, attempt.version)
    if evaluation.key_id in keys.revoked or evaluation.key_id not in keys.keys:
        reasons.append(f"key {evaluation.key_id}, which signed the evaluation, counts no more")
    if reasons:
        raise PromotionRefused("; ".join(reasons))


def _not_carried(attempt: _Attempt, evidence: Evidence, policy: PromotionPolicy) -> list[str]:
    """Return why evidence does not carry the version as it is now."""
    client, name, version = attempt.parts.client, attempt.parts.name, attempt.version
    with mlflow_call(f"version {version} of {name}"):
        run_id = client.get_model_version(name, version).run_id
    return check_evidence(
        evidence,
        name=name,
        version=version,
        run_id=run_id,
        model_sha256=version_digest(client, name, version),
        policy=policy,
        now=attempt.parts.ledger.clock(),
    )


def _take_look(attempt: _Attempt, look: Look) -> None:
    """Write the test look down, ask the promotion gate, refuse unless it passed."""
    assert attempt.evidence is not None
    data = attempt.evidence.data
    split = {"split": data.get("split"), "split_sha256": str(data.get("split_sha256", ""))}
    windows = {**look.windows, **split}
    ledger = attempt.parts.ledger
    ledger.append_made(lambda ledger_id: _look(attempt, windows, ledger_id))
    attempt.looks = len(ledger.looks_at(windows, attempt.parts.keys))
    gate = dict(look.take(attempt.looks))
    try:
        canonical_json(gate)
    except (ValueError, TypeError) as error:
        raise attempt.refuse([f"the promotion gate's figures are not finite ({error})"]) from None
    attempt.gate = gate
    if gate.get("verdict") != "passed":
        why = [str(reason) for reason in gate.get("reasons") or []]
        raise attempt.refuse([f"the promotion gate is {gate.get('verdict', 'absent')}", *why])


def _look(attempt: _Attempt, windows: Mapping[str, Any], ledger_id: str) -> Draft:
    assert attempt.evidence is not None
    payload = signed_look(
        windows,
        name=attempt.parts.name,
        version=attempt.version,
        evidence_digest=attempt.evidence.digest,
        ledger_id=ledger_id,
        key=attempt.parts.require_signing_key(),
    )
    beside = f"version {attempt.version} beside {attempt.champion or 'no champion'}"
    return attempt.draft("test_look", beside, **payload)


def _looks_left_out(view: LedgerView) -> list[str]:
    """Say how many lines about looks do not count, because no trusted gate runner signed them."""
    looks = view.entries(events=("test_look",))
    ignored = len(looks) - len(view.belief.counting(looks))
    if not ignored:
        return []
    return [
        f"{ignored} looks in the ledger are signed by no trusted gate runner: they do not count"
    ]


def _sign_promotion(attempt: _Attempt) -> None:
    """Sign what the promotion gate found and store it where a guarded server looks for it."""
    assert attempt.evidence is not None
    assert attempt.gate is not None
    key = attempt.parts.require_signing_key()
    attempt.evidence = dataclasses.replace(
        attempt.evidence,
        purpose="promotion",
        champion=attempt.champion,
        promotion_verdict=str(attempt.gate["verdict"]),
        promotion_figures=dict(attempt.gate.get("figures") or {}),
        test_looks=attempt.looks,
        asked_by=attempt.parts.who,
        evaluated_at=attempt.evidence.created_at,
        created_at=attempt.parts.now(),
        key_id=key_id(key.public_key()),
    )
    attempt.signed = sign(attempt.evidence, key)
    store_evidence(
        attempt.parts.client, attempt.signed, attempt.evidence, tag=TAG_PROMOTION_EVIDENCE
    )


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
