"""Going back to a version that once held Production, naming a challenger, reading the history."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from moola.config.names import ALIAS_CHALLENGER, ALIAS_PRODUCTION, STAGE_STAGING
from moola.config.promotion import TAG_PROMOTION_EVIDENCE
from moola.errors import PromotionRefused
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.attestation import Evidence, sign, store_evidence
from moola.promotion.evidence.keys import key_id
from moola.promotion.evidence.proof import (
    does_not_count,
    last_promotion,
    own_file_findings,
    require_proof,
)
from moola.promotion.ledger.base import Ledger, write_refusal
from moola.promotion.ledger.content import Event
from moola.promotion.ledger.entry import (
    MOVES,
    Draft,
    Entry,
    optional_version,
    plain_version,
)
from moola.promotion.ledger.lines import alias_of, champion_after, of_alias, readable
from moola.promotion.moving import Precondition, move
from moola.promotion.parts import ProductionParts
from moola.promotion.recovery import recover
from moola.promotion.state import read_state, set_stage

REMARKS = ("refusal", "challenger", "repair")  # nothing follows from them, whoever wrote them


@dataclass(frozen=True, kw_only=True)
class History:
    """Every entry about one model, who held Production at the time asked for, what to know.

    Parameters
    ----------
    name
        The registered model.
    at
        The time asked for; None: now.
    champion
        The version in Production then, by the moves that count.
    entries
        Every line up to then, also those that do not count.
    notes
        Which lines do not count, and why.
    holders
        Who held each other guarded alias then.
    """

    name: str
    at: datetime | None
    champion: str | None
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    holders: Mapping[str, str] = field(default_factory=dict)


def history(parts: ProductionParts, at: datetime | None = None) -> History:
    """Return a model's history up to a time, after checking the ledger's chain.

    Parameters
    ----------
    parts
        Of the model; a line that none of its keys signed does not count. Without any key every move
        that can be read is taken, because nothing here can tell.
    at
        The time, with a zone; None: now.

    Raises
    ------
    PromotionRefused
        If the chain is broken.
    """
    name, view = parts.name, parts.ledger.read(parts.keys)
    entries = [
        entry
        for entry in view.entries(name)
        if at is None or entry.time is None or entry.time <= at
    ]
    belief, moves = view.belief, view.entries(name, events=MOVES)
    telling = bool(belief.keys.keys or belief.keys.servers)
    counting = belief.moves(moves) if telling else readable(moves)
    holders = {
        alias: holder
        for alias in dict.fromkeys(map(alias_of, counting))
        if (holder := champion_after(of_alias(counting, alias), at)) is not None
    }
    champion = holders.pop(ALIAS_PRODUCTION, None)
    notes = [
        does_not_count(entry, why)
        for entry in entries
        if entry.event not in REMARKS and (why := belief.why_not(entry)) and telling
    ]
    if not telling:
        notes = ["no key is trusted here, so nothing tells whose lines these are"]
    return History(
        name=name,
        at=at,
        champion=champion,
        entries=tuple(entries),
        notes=tuple(notes),
        holders=holders,
    )


def rollback(
    parts: ProductionParts, *, reason: str, to: str | None = None, dry_run: bool = False
) -> Decision:
    """Put back a version that held Production before, after verifying it again.

    Parameters
    ----------
    parts
        Of the model. The version's evidence must satisfy the policy but for its age.
    reason
        Why; goes into the ledger.
    to
        The version; None takes the one that held Production before the present one was promoted.
    dry_run
        Verify, and change nothing.

    Raises
    ------
    PromotionDenied
        If the version never held Production, or the evidence of its last promotion no longer
        carries it: signature, name, run, files, gates. The ledger keeps the refusal.
    PromotionRefused
        If the ledger's chain is broken.
    BadInput
        If the version is no such thing.
    ConfigError
        If there is no signing key that counts.
    """
    to = optional_version(to)
    if not dry_run:
        parts = parts.signing()
    client, ledger, name = parts.client, parts.ledger, parts.name
    view = ledger.read(parts.keys)
    if not dry_run and recover(parts, view):
        view = ledger.read(parts.keys)
    state = read_state(client, name)
    moves, belief = view.moves(name), view.belief
    counting = belief.moves(moves)
    last_champion = counting[-1].version_to if counting else None
    champion = state.alias_version if state.agrees else last_champion
    target = to or previous_champion(counting)
    plan = Decision(
        action="rollback",
        allowed=True,
        name=name,
        version=target or "?",
        champion_before=champion,
        who=parts.who,
        decided_at=parts.now(),
        dry_run=dry_run,
    )
    try:
        if target is None:
            ignored = len(moves) - len(counting)
            aloud = f" ({ignored} moves in the ledger do not count)" if ignored else ""
            raise PromotionRefused(f"no earlier version held Production{aloud}")
        proof = last_promotion(moves, target, belief)
        evidence = require_proof(client, proof, parts.keys, policy=parts.policy)
        findings = own_file_findings(client, name, target, evidence, data_root=parts.data_root)
        if findings:
            raise PromotionRefused(f"version {target}: {'; '.join(findings)}")
        if target == champion and state.agrees:
            raise PromotionRefused("it already holds Production")
        if dry_run:
            return dataclasses.replace(plan, evidence_digest=evidence.digest)
        order = _order(parts, evidence, plan, reason=reason)
        draft = _draft("rollback", plan, reason, evidence=order)

        def check_again() -> None:
            keys, policy = parts.rules_now()
            require_proof(client, proof, keys, policy=policy)

        precondition = Precondition(
            state=state, last_move=view.last_move(name), check=check_again, keys=parts.keys
        )
        entry = move(client, ledger, draft, precondition=precondition)
    except PromotionRefused as refusal:
        raise _refuse(ledger, plan, refusal) from refusal
    return dataclasses.replace(plan, evidence_digest=order.digest, ledger_seq=entry.seq)


def set_challenger(parts: ProductionParts, version: str) -> Decision:
    """Give alias ``challenger`` and stage ``Staging`` to a version; the one before is archived.

    A challenger needs no evidence, because nothing is served from it; the champion cannot be one.

    Raises
    ------
    PromotionDenied
        If the version holds Production or does not exist.
    """
    client, name, version = parts.client, parts.name, plain_version(version)
    ledger = parts.ledger.signing(parts.signing_key)
    state = read_state(client, name)
    plan = Decision(
        action="challenger",
        allowed=True,
        name=name,
        version=version,
        champion_before=state.alias_version,
        who=parts.who,
        decided_at=parts.now(),
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


def _order(parts: ProductionParts, evidence: Evidence, plan: Decision, *, reason: str) -> Evidence:
    """Sign an order to go back, which a guarded server asks for, and store it at the version."""
    key = parts.require_signing_key()
    order = dataclasses.replace(
        evidence,
        purpose="rollback",
        champion=plan.champion_before,
        reason=reason,
        asked_by=plan.who,
        evaluated_at=None,
        created_at=parts.now(),
        key_id=key_id(key.public_key()),
    )
    store_evidence(parts.client, sign(order, key), order, tag=TAG_PROMOTION_EVIDENCE)
    return order


def _draft(event: Event, plan: Decision, reason: str, *, evidence: Evidence | None = None) -> Draft:
    payload = {"alias": ALIAS_PRODUCTION if event != "challenger" else ALIAS_CHALLENGER}
    if evidence is not None:
        payload |= {"model_sha256": evidence.model_sha256, "run_id": evidence.run_id}
    return Draft(
        event=event,
        who=plan.who,
        name=plan.name,
        reason=reason,
        version_from=plan.champion_before,
        version_to=None if plan.version == "?" else plan.version,
        evidence_digest=evidence.digest if evidence else None,
        payload=payload,
    )


def _refuse(ledger: Ledger, plan: Decision, refusal: PromotionRefused) -> PromotionDenied:
    reason = str(refusal).rstrip(".")
    entry: Entry | None = None
    notes: list[str] = []
    if not plan.dry_run:
        entry, notes = write_refusal(ledger, _draft("refusal", plan, f"{plan.action}: {reason}"))
    seq = entry.seq if entry else None
    return PromotionDenied(
        dataclasses.replace(
            plan, allowed=False, reasons=(reason,), ledger_seq=seq, notes=tuple(notes)
        )
    )
