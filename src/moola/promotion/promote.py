"""Promotion: check everything, look at the locked test windows last, then move Production."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from moola.config.promotion import TAG_PROMOTION_EVIDENCE, PromotionPolicy
from moola.errors import PromotionRefused
from moola.hashing import canonical_json
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
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.belief import signed_look
from moola.promotion.ledger.entry import Draft, Entry, plain_name, plain_text, plain_version
from moola.promotion.ledger.local import Ledger, write_refusal
from moola.promotion.moving import Rules, Seen, last_move, move, require_signing_key
from moola.promotion.recovery import recover
from moola.promotion.state import read_state
from moola.promotion.versions.digest import version_digest

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
    keys: TrustedKeys
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
        entry: Entry | None = None
        notes: list[str] = []
        if not self.dry_run:
            draft = self.draft("refusal", "; ".join(reasons), reasons=reasons)
            entry, notes = write_refusal(self.ledger, draft)
        decision = self.decision(reasons=reasons, entry=entry, notes=notes)
        return PromotionDenied(decision, remedy=remedy)


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
    rules: Rules | None = None,
) -> Decision:
    """Put a version into Production if everything speaks for it.

    The order is fixed: the ledger's chain is checked; an interrupted move is finished; signature,
    version, run, digest, policy and gates are checked; `promotion_gate` says whether it can look;
    the look at the locked test windows is signed and written down, then taken; on a plain store all
    is checked again; alias ``production`` and stage ``Production`` move together and the old
    version is archived.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    version
        The version that shall be promoted, as digits or an integer.
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
        The gate runner's key, which signs the look, what the promotion gate found and, on a plain
        store, the lines of the ledger. Only a dry run does without.
    evidence
        Signed evidence of the evaluation; None reads it from the version's tag.
    dry_run
        Check all but the locked test windows, and change nothing.
    rules
        Returns keys and policy as they are at the moment of the move; None reads the keys' folder
        again and keeps the policy.

    Returns
    -------
    Decision
        The promotion, or for a dry run that nothing is against it so far.

    Raises
    ------
    PromotionDenied
        (a `PromotionRefused`) with every reason found; the ledger holds it as a refusal.
    PromotionRefused
        If the ledger's chain is broken.
    TrackingError
        If registry or ledger cannot be reached.
    BadInput
        If name, version or `who` are no such things, or there is no signing key.
    """
    name, version, who = plain_name(name), plain_version(version), plain_text("who", who)
    key = None if dry_run else require_signing_key(ledger, signing_key, trusted_keys)
    ledger = ledger.signing(key)
    ledger.verify_chain()
    attempt = _Attempt(
        ledger=ledger, name=name, version=version, who=who, dry_run=dry_run, keys=trusted_keys
    )
    try:
        notes = [] if dry_run else _recovered(client, ledger, name, trusted_keys, policy)
        seen_move = last_move(ledger, name)
        state = read_state(client, name)
        attempt.champion = state.champion
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
    assert key is not None
    notes += _take_look(attempt, look, key)
    try:
        evaluation = attempt.evidence
        _sign_promotion(client, attempt, key)
        draft = attempt.draft("promotion", _summary(attempt), **_payload(attempt))

        def check_again() -> None:
            _check_again(
                client, attempt, evaluation, rules or (lambda: (trusted_keys.now(), policy))
            )

        seen = Seen(state=state, last_move=seen_move, check=check_again, keys=trusted_keys)
        entry = move(client, ledger, draft, seen=seen)
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
    reasons = _not_carried(client, attempt, attempt.evidence, policy)
    if attempt.champion == attempt.version:
        reasons.append("it already holds Production")
    if attempt.evidence.purpose != "evaluation":
        reasons.append(f"the evidence was made for a {attempt.evidence.purpose}")
    return reasons


def _check_again(
    client: MlflowClient, attempt: _Attempt, evaluation: Evidence, rules: Rules
) -> None:
    """Check files, keys and policy once more, as they are at the moment of the move."""
    keys, policy = rules()
    assert attempt.signed is not None
    verify_evidence(attempt.signed, keys)
    reasons = _not_carried(client, attempt, evaluation, policy)
    if evaluation.key_id in keys.revoked or evaluation.key_id not in keys.keys:
        reasons.append(f"key {evaluation.key_id}, which signed the evaluation, counts no more")
    if reasons:
        raise PromotionRefused("; ".join(reasons))


def _not_carried(
    client: MlflowClient, attempt: _Attempt, evidence: Evidence, policy: PromotionPolicy
) -> list[str]:
    """Return why evidence does not carry the version as it is now."""
    with mlflow_call(f"version {attempt.version} of {attempt.name}"):
        run_id = client.get_model_version(attempt.name, attempt.version).run_id
    return check_evidence(
        evidence,
        name=attempt.name,
        version=attempt.version,
        run_id=run_id,
        model_sha256=version_digest(client, attempt.name, attempt.version),
        policy=policy,
        now=attempt.ledger.clock(),
    )


def _take_look(attempt: _Attempt, look: Look, key: Ed25519PrivateKey) -> list[str]:
    """Write the test look down, ask the promotion gate, refuse unless it passed."""
    assert attempt.evidence is not None
    data = attempt.evidence.data
    split = {"split": data.get("split"), "split_sha256": str(data.get("split_sha256", ""))}
    windows = {**look.windows, **split}
    notes = _looks_left_out(attempt)
    attempt.ledger.append_made(lambda ledger_id: _look(attempt, windows, ledger_id, key))
    attempt.looks = len(attempt.ledger.looks_at(windows, attempt.keys))
    gate = dict(look.take(attempt.looks))
    try:
        canonical_json(gate)
    except (ValueError, TypeError) as error:
        raise attempt.refuse([f"the promotion gate's figures are not finite ({error})"]) from None
    attempt.gate = gate
    if gate.get("verdict") != "passed":
        why = [str(reason) for reason in gate.get("reasons") or []]
        raise attempt.refuse([f"the promotion gate is {gate.get('verdict', 'absent')}", *why])
    return notes


def _look(
    attempt: _Attempt, windows: Mapping[str, Any], ledger_id: str, key: Ed25519PrivateKey
) -> Draft:
    assert attempt.evidence is not None
    payload = signed_look(
        windows,
        name=attempt.name,
        version=attempt.version,
        evidence_digest=attempt.evidence.digest,
        ledger_id=ledger_id,
        key=key,
    )
    beside = f"version {attempt.version} beside {attempt.champion or 'no champion'}"
    return attempt.draft("test_look", beside, **payload)


def _looks_left_out(attempt: _Attempt) -> list[str]:
    """Say how many lines about looks do not count, because no trusted gate runner signed them."""
    lines = attempt.ledger.entries(events=("test_look",))
    ignored = len(lines) - len(attempt.ledger.belief(attempt.keys).counting(lines))
    if not ignored:
        return []
    return [
        f"{ignored} looks in the ledger are signed by no trusted gate runner: they do not count"
    ]


def _sign_promotion(
    client: MlflowClient, attempt: _Attempt, signing_key: Ed25519PrivateKey
) -> None:
    """Sign what the promotion gate found and store it where a guarded server looks for it."""
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
