"""Going back to a version that once held Production, naming a challenger, reading the history."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from moola.config.names import ALIAS_CHALLENGER, ALIAS_PRODUCTION, STAGE_STAGING
from moola.config.promotion import TAG_PROMOTION_EVIDENCE, PromotionPolicy
from moola.errors import PromotionRefused
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence import Evidence, sign, store_evidence
from moola.promotion.keys import TrustedKeys, key_id
from moola.promotion.ledger import MOVES, Draft, Entry, Ledger
from moola.promotion.proof import last_promotion, require_proof
from moola.promotion.recovery import last_move, move, recover
from moola.promotion.state import read_state, set_stage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class History:
    """Every entry about one model, and who held Production at the time asked for."""

    name: str
    at: datetime | None
    champion: str | None
    entries: tuple[Entry, ...]


def history(ledger: Ledger, name: str, at: datetime | None = None) -> History:
    """Return a model's history up to a time (None: now), after checking the ledger's chain."""
    ledger.verify_chain()
    entries = [
        entry
        for entry in ledger.entries(name)
        if at is None or datetime.fromisoformat(entry.at) <= at
    ]
    return History(name=name, at=at, champion=ledger.champion_at(name, at), entries=tuple(entries))


def rollback(
    *,
    client: MlflowClient,
    ledger: Ledger,
    name: str,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
    who: str,
    reason: str,
    to: str | None = None,
    signing_key: Ed25519PrivateKey | None = None,
    dry_run: bool = False,
) -> Decision:
    """Put back a version that held Production before, after verifying it again.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    trusted_keys
        Keys whose signature counts.
    policy
        The policy in force, which the version's evidence must satisfy but for its age.
    who
        Who asks; goes into the ledger.
    reason
        Why; goes into the ledger.
    to
        The version; None takes the one that held Production before the present one was promoted.
    signing_key
        The gate runner's key, which signs the order to go back; a guarded server asks for it.
    dry_run
        Verify, and change nothing.

    Returns
    -------
    Decision
        The rollback.

    Raises
    ------
    PromotionDenied
        If the version never held Production, or the evidence of its last promotion no longer
        carries it: signature, name, run, files, gates. It stands in the ledger as a refusal.
    """
    if not dry_run:
        recover(client, ledger, name, trusted_keys=trusted_keys, policy=policy)
    seen_move = last_move(ledger, name)
    state = read_state(client, name)
    champion = state.alias_version if state.agrees else ledger.champion_at(name)
    moves = ledger.entries(name, events=MOVES)
    target = to or previous_champion(moves)
    plan = Decision(
        action="rollback",
        allowed=True,
        name=name,
        version=target or "?",
        champion_before=champion,
        who=who,
        decided_at=ledger.clock().astimezone(UTC).isoformat(),
        dry_run=dry_run,
    )
    try:
        if target is None:
            raise PromotionRefused("no earlier version held Production")
        proof = last_promotion(moves, target)
        evidence = require_proof(client, proof, trusted_keys, policy=policy)
        if target == champion and state.agrees:
            raise PromotionRefused("it already holds Production")
        if dry_run:
            return dataclasses.replace(plan, evidence_digest=evidence.digest)
        order = _order(client, ledger, evidence, plan, reason=reason, signing_key=signing_key)
        draft = _draft("rollback", plan, reason, evidence=order)
        entry = move(client, ledger, draft, seen_move=seen_move)
    except PromotionRefused as refusal:
        raise _refuse(ledger, plan, refusal) from refusal
    return dataclasses.replace(plan, evidence_digest=order.digest, ledger_seq=entry.seq)


def set_challenger(
    *, client: MlflowClient, ledger: Ledger, name: str, version: str, who: str
) -> Decision:
    """Give alias ``challenger`` and stage ``Staging`` to a version; the one before is archived.

    A challenger needs no evidence, because nothing is served from it; the champion cannot be one.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    version
        The version that shall challenge the champion.
    who
        Who asks; goes into the ledger.

    Returns
    -------
    Decision
        The change.

    Raises
    ------
    PromotionDenied
        If the version holds Production or does not exist.
    """
    state = read_state(client, name)
    plan = Decision(
        action="challenger",
        allowed=True,
        name=name,
        version=version,
        champion_before=state.alias_version,
        who=who,
        decided_at=ledger.clock().astimezone(UTC).isoformat(),
    )
    try:
        if version == state.alias_version or version in state.stage_versions:
            raise PromotionRefused("it holds Production")
        set_stage(client, name, version, STAGE_STAGING, archive_existing=True)
        with mlflow_call(f"version {version} of {name}"):
            client.set_registered_model_alias(name, ALIAS_CHALLENGER, version)
    except PromotionRefused as refusal:
        raise _refuse(ledger, plan, refusal) from refusal
    entry = ledger.append(_draft("challenger", plan, f"alias {ALIAS_CHALLENGER}"))
    return dataclasses.replace(plan, ledger_seq=entry.seq)


def previous_champion(moves: list[Entry]) -> str | None:
    """Return the version that held Production before the present one was promoted.

    Promotions pile up and a rollback takes off what lies above its target, so that two rollbacks in
    a row go back two steps instead of returning to the version just taken out.
    """
    pile: list[str] = []
    for entry in moves:
        version = str(entry.version_to)
        if entry.event == "rollback" and version in pile:
            while pile[-1] != version:
                pile.pop()
        else:
            pile.append(version)
    return pile[-2] if len(pile) > 1 else None


def _order(
    client: MlflowClient,
    ledger: Ledger,
    evidence: Evidence,
    plan: Decision,
    *,
    reason: str,
    signing_key: Ed25519PrivateKey | None,
) -> Evidence:
    """Sign an order to go back, which a guarded server asks for, and store it at the version."""
    if signing_key is None:
        return evidence
    order = dataclasses.replace(
        evidence,
        purpose="rollback",
        champion=plan.champion_before,
        reason=reason,
        asked_by=plan.who,
        evaluated_at=None,
        created_at=ledger.clock().astimezone(UTC).isoformat(),
        key_id=key_id(signing_key.public_key()),
    )
    store_evidence(client, sign(order, signing_key), order, tag=TAG_PROMOTION_EVIDENCE)
    return order


def _draft(event: str, plan: Decision, reason: str, *, evidence: Evidence | None = None) -> Draft:
    payload = {"alias": ALIAS_PRODUCTION if event != "challenger" else ALIAS_CHALLENGER}
    if evidence is not None:
        payload |= {"model_sha256": evidence.model_sha256, "run_id": evidence.run_id}
    return Draft(
        event=event,
        who=plan.who,
        name=plan.name,
        reason=reason,
        version_from=plan.champion_before,
        version_to=plan.version,
        evidence_digest=evidence.digest if evidence else None,
        payload=payload,
    )


def _refuse(ledger: Ledger, plan: Decision, refusal: PromotionRefused) -> PromotionDenied:
    reason = str(refusal).rstrip(".")
    seq = None
    if not plan.dry_run:
        seq = ledger.append(_draft("refusal", plan, f"{plan.action}: {reason}")).seq
    return PromotionDenied(
        dataclasses.replace(plan, allowed=False, reasons=(reason,), ledger_seq=seq)
    )
