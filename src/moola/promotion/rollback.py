"""Going back to a version that once held Production, naming a challenger, reading the history."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from moola.config.names import ALIAS_CHALLENGER, ALIAS_PRODUCTION, STAGE_STAGING
from moola.config.promotion import TAG_PROMOTION_EVIDENCE, PromotionPolicy
from moola.errors import PromotionRefused
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.attestation import Evidence, sign, store_evidence
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.evidence.proof import (
    does_not_count,
    last_promotion,
    own_file_findings,
    require_proof,
)
from moola.promotion.ledger.entry import (
    MOVES,
    Draft,
    Entry,
    optional_version,
    plain_name,
    plain_text,
    plain_version,
)
from moola.promotion.ledger.local import Ledger, write_refusal
from moola.promotion.moving import Rules, Seen, last_move, move, require_signing_key
from moola.promotion.recovery import recover
from moola.promotion.state import read_state, set_stage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient


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
    """

    name: str
    at: datetime | None
    champion: str | None
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def history(
    ledger: Ledger, name: str, at: datetime | None = None, *, keys: TrustedKeys | None = None
) -> History:
    """Return a model's history up to a time, after checking the ledger's chain.

    Parameters
    ----------
    ledger
        The ledger.
    name
        The registered model.
    at
        The time, with a zone; None: now.
    keys
        Trusted keys; a line that none of them signed does not count. None, or no key at all, takes
        every move that can be read, because nothing here can tell.

    Returns
    -------
    History
        Lines and champion.

    Raises
    ------
    PromotionRefused
        If the chain is broken.
    """
    name = plain_name(name)
    ledger.verify_chain()
    entries = [
        entry
        for entry in ledger.entries(name)
        if at is None or entry.time is None or entry.time <= at
    ]
    belief = ledger.belief(keys or TrustedKeys(keys={}))
    telling = keys is not None and bool(belief.keys.keys or belief.keys.servers)
    champion = ledger.champion_at(name, at, keys=keys if telling else None)
    notes = [
        does_not_count(entry, why)
        for entry in entries
        if entry.event not in REMARKS and (why := belief.why_not(entry)) and telling
    ]
    if not telling:
        notes = ["no key is trusted here, so nothing tells whose lines these are"]
    return History(name=name, at=at, champion=champion, entries=tuple(entries), notes=tuple(notes))


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
    rules: Rules | None = None,
    data_root: Path | None = None,
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
        The gate runner's key, which signs the order to go back and, on a plain store, the lines of
        the ledger. Only a dry run does without.
    dry_run
        Verify, and change nothing.
    rules
        Returns keys and policy as they are at the moment of the move; None reads the keys' folder
        again and keeps the policy.
    data_root
        Root of the data registry, which knows the classes of a labelled set; None: there is none.

    Returns
    -------
    Decision
        The rollback.

    Raises
    ------
    PromotionDenied
        If the version never held Production, or the evidence of its last promotion no longer
        carries it: signature, name, run, files, gates. The ledger keeps the refusal.
    PromotionRefused
        If the ledger's chain is broken.
    BadInput
        If name or version are no such things, or there is no signing key.
    """
    name, to, who = plain_name(name), optional_version(to), plain_text("who", who)
    key = None if dry_run else require_signing_key(ledger, signing_key, trusted_keys)
    ledger = ledger.signing(key)
    ledger.verify_chain()
    if not dry_run:
        recover(client, ledger, name, trusted_keys=trusted_keys, policy=policy)
    seen_move = last_move(ledger, name)
    state = read_state(client, name)
    moves, belief = ledger.entries(name, events=MOVES), ledger.belief(trusted_keys)
    counting = belief.moves(moves)
    held = counting[-1].version_to if counting else None
    champion = state.alias_version if state.agrees else held
    target = to or previous_champion(counting)
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
            ignored = len(moves) - len(counting)
            aloud = f" ({ignored} moves in the ledger do not count)" if ignored else ""
            raise PromotionRefused(f"no earlier version held Production{aloud}")
        proof = last_promotion(moves, target, belief)
        evidence = require_proof(client, proof, trusted_keys, policy=policy)
        findings = own_file_findings(client, name, target, evidence, data_root=data_root)
        if findings:
            raise PromotionRefused(f"version {target}: {'; '.join(findings)}")
        if target == champion and state.agrees:
            raise PromotionRefused("it already holds Production")
        if dry_run:
            return dataclasses.replace(plan, evidence_digest=evidence.digest)
        assert key is not None
        order = _order(client, ledger, evidence, plan, reason=reason, key=key)
        draft = _draft("rollback", plan, reason, evidence=order)

        def check_again() -> None:
            keys, now = rules() if rules else (trusted_keys.now(), policy)
            require_proof(client, proof, keys, policy=now)

        seen = Seen(state=state, last_move=seen_move, check=check_again, keys=trusted_keys)
        entry = move(client, ledger, draft, seen=seen)
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
    name, version, who = plain_name(name), plain_version(version), plain_text("who", who)
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
    key: Ed25519PrivateKey,
) -> Evidence:
    """Sign an order to go back, which a guarded server asks for, and store it at the version."""
    order = dataclasses.replace(
        evidence,
        purpose="rollback",
        champion=plan.champion_before,
        reason=reason,
        asked_by=plan.who,
        evaluated_at=None,
        created_at=ledger.clock().astimezone(UTC).isoformat(),
        key_id=key_id(key.public_key()),
    )
    store_evidence(client, sign(order, key), order, tag=TAG_PROMOTION_EVIDENCE)
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
