"""Giving an alias of any model to a version, and taking it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moola.config.policy import Rule
from moola.errors import PromotionRefused
from moola.promotion.aliases.proof import (
    Proof,
    attest_version,
    check,
    draft_of,
    draft_of_report,
    kind_in,
    proof_now,
    prove,
    subject_of,
)
from moola.promotion.aliases.requirements import Subject, enforced, reasons_in
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.predicates import Order
from moola.promotion.ledger.base import write_refusal
from moola.promotion.ledger.entry import MOVES, Draft, Entry, plain_version
from moola.promotion.ledger.local import LocalLedger, attestations_in, belief_in
from moola.promotion.ledger.remote import RemoteLedger
from moola.promotion.ledger.rows import read_entries
from moola.promotion.moving import SeenFiles, require_same_files, seen_files
from moola.promotion.registry_rows import (
    exclusive,
    holder_in,
    origin_in,
    set_alias_in,
    store_beside,
)
from moola.promotion.rollback import previous_champion

if TYPE_CHECKING:
    from moola.promotion.evidence.keys import PrivateKey
    from moola.promotion.parts import ProductionParts


def move_alias(
    parts: ProductionParts,
    version: str,
    alias: str,
    *,
    dry_run: bool = False,
    order: Order | None = None,
    key: PrivateKey | None = None,
) -> Decision:
    """Give an alias to a version if the rules for it are met.

    Parameters
    ----------
    parts
        Of the model.
    version
        The version.
    alias
        The alias; ``production`` is the stage too.
    dry_run
        Ask, and change nothing.
    order
        Go back to a version that held the alias, or break the glass, whatever the rules require;
        its `champion` is filled in here.
    key
        Signs the order.

    Returns
    -------
    Decision
        What was done.

    Raises
    ------
    PromotionDenied
        With every requirement that is not met; the ledger keeps the refusal.
    """
    version = plain_version(version)
    if not dry_run and not parts.ledger.moves_by_server:
        parts = parts.signing()
    files = seen_files(parts.client, parts.name, version)
    subject = subject_of(parts, version, alias)
    plan = Decision(
        action="rollback" if order is not None and order.action == "rollback" else "promotion",
        allowed=True,
        name=parts.name,
        version=version,
        champion_before=subject.champion,
        who=parts.who,
        decided_at=parts.now(),
        dry_run=dry_run,
        alias=alias,
    )
    try:
        if subject.champion == version:
            raise PromotionRefused(f"it already holds {alias}", limit="another version")
        if order is not None and key is not None and not dry_run:
            order = dataclasses.replace(order, champion=subject.champion or "")
            attest_version(parts, subject, order, key)
        if isinstance(parts.ledger, RemoteLedger):
            return _by_server(parts, parts.ledger, plan)
        entry = _on_plain_store(parts, subject, files, ordered=order is not None, dry_run=dry_run)
    except PromotionDenied:
        raise
    except PromotionRefused as refusal:
        raise _denied(parts, plan, refusal) from refusal
    if entry is None:
        return plan
    notes = (f"report mode: {entry.reason}",) if entry.event == "observed" else ()
    return dataclasses.replace(plan, ledger_seq=entry.seq, notes=notes)


def previous_holder(parts: ProductionParts, alias: str) -> str:
    """Return who held an alias before its present holder; raises PromotionRefused for nobody."""
    view = parts.ledger.read(parts.keys)
    before = previous_champion(view.belief.moves(view.moves(parts.name, alias)))
    if before is None:
        raise PromotionRefused(
            f"no earlier version held {alias} of {parts.name}",
            limit="a version that a line of the ledger gave it to",
            remedy=f"Promote one: `moola promote {parts.name}/VERSION --alias {alias}`",
        )
    return before


def _by_server(parts: ProductionParts, ledger: RemoteLedger, plan: Decision) -> Decision:
    assert plan.alias is not None
    if plan.dry_run:
        asked = check(parts, plan.version, plan.alias)
        answers = enforced(one for answer in asked for one in answer.requirements)
        if reasons := reasons_in(answers):
            raise PromotionRefused("; ".join(reasons))
        return plan
    with mlflow_call(f"alias {plan.alias} for version {plan.version} of {plan.name}"):
        parts.client.set_registered_model_alias(plan.name, plan.alias, plan.version)
    moves = ledger.moves(plan.name, alias=plan.alias, keys=parts.keys)
    if moves and moves[-1].version_to == plan.version:
        return dataclasses.replace(plan, ledger_seq=moves[-1].seq)
    observed = ledger.entries(plan.name, events=("observed",))
    last = observed[-1] if observed else None
    if last is None or last.version_to != plan.version:
        return dataclasses.replace(plan, notes=(f"no rule of the server is about {plan.alias}",))
    return dataclasses.replace(plan, ledger_seq=last.seq, notes=(f"report mode: {last.reason}",))


def _on_plain_store(
    parts: ProductionParts, subject: Subject, files: SeenFiles, *, ordered: bool, dry_run: bool
) -> Entry | None:
    """Check, compare and move in one transaction of registry and ledger."""
    kind = kind_in(parts.client, parts.name)
    rules = parts.rules.rules_for(subject.name, subject.alias, kind=kind)
    if not rules:
        raise PromotionRefused(
            f"no rule is about alias {subject.alias} of {subject.name}",
            remedy="Write one into .moola/policy.yaml, or set the alias with MLflow: it is free",
        )
    _require_met(proof_now(parts, subject, rules), ordered=ordered)
    if dry_run:
        return None
    ledger = parts.ledger
    assert isinstance(ledger, LocalLedger)
    store = store_beside(parts.client, ledger)
    if store is None:
        raise PromotionRefused(
            "the ledger is in another database than the registry",
            limit="one database for both, or a guarded server",
            remedy="Leave --ledger out, or start `moola server`",
        )
    keys, policy = parts.policy_now()
    rules = policy.rules_for(subject.name, subject.alias, kind=kind)
    with exclusive(store) as session:
        connection = session.connection()
        if holder_in(session, subject.name, subject.alias) != subject.champion:
            raise PromotionRefused(
                f"{subject.alias} was moved while this was checked",
                limit=f"version {subject.champion} as its holder",
                remedy="Run it again: it is then held against the new holder",
            )
        if origin_in(session, subject.name, subject.version) != (files.run_id, files.address):
            raise PromotionRefused(
                f"version {subject.version} names another run or other files by now",
                limit=f"run {subject.run_id}",
            )
        require_same_files(files, subject.version)
        proof = prove(
            policy,
            rules,
            subject,
            attestations_in(connection, subject.name, subject.version),
            keys=keys,
            moves=belief_in(connection, keys).moves(
                read_entries(connection, subject.name, events=MOVES)
            ),
            now=ledger.clock(),
        )
        _require_met(proof, ordered=ordered)
        set_alias_in(session, subject.name, subject.version, subject.alias)
        entries = [ledger.append_in(connection, draft) for draft in _drafts(proof, rules, parts)]
    ledger.note(entries[-1], compared=False)
    return entries[0]


def _drafts(proof: Proof, rules: Sequence[Rule], parts: ProductionParts) -> Iterator[Draft]:
    """Yield the line about a move, and the one about what rules in report mode say of it."""
    answers = tuple(enforced(proof.findings))
    if answers:
        names = tuple(rule.name for rule in rules if rule.mode == "enforce")
        proven = dataclasses.replace(proof, findings=answers, rules=names)
        yield draft_of(proven, who=parts.who)
    reported = [rule for rule in rules if rule.mode == "report"]
    if reported:
        subject = proof.subject
        others = [one for one in proof.findings if one.mode == "report"]
        yield draft_of_report(
            reported,
            [] if proof.order else reasons_in(others),
            name=subject.name,
            version=subject.version,
            alias=subject.alias,
            champion=subject.champion,
            who=parts.who,
        )


def _require_met(proof: Proof, *, ordered: bool) -> None:
    if ordered and proof.order is None:
        raise PromotionRefused(
            "the order does not count",
            limit="for a rollback a version that held the alias with these files; to break the "
            "glass a signer that break_glass of the policy names",
        )
    answers = [] if proof.order else enforced(proof.findings)
    reasons = reasons_in(answers)
    if any(one.met is None for one in answers):
        reasons.append("the gates decide: run `moola promote` without --alias")
    if reasons:
        raise PromotionRefused("; ".join(reasons))


def _denied(parts: ProductionParts, plan: Decision, refusal: PromotionRefused) -> PromotionDenied:
    reason = str(refusal).rstrip(".")
    entry: Entry | None = None
    notes: list[str] = []
    if not plan.dry_run:
        draft = Draft(
            event="refusal",
            who=plan.who,
            name=plan.name,
            reason=f"alias {plan.alias}: {reason}"[:4000],
            version_from=plan.champion_before,
            version_to=plan.version,
            payload={"alias": plan.alias},
        )
        entry, notes = write_refusal(parts.ledger, draft)
    return PromotionDenied(
        dataclasses.replace(
            plan,
            allowed=False,
            reasons=(reason,),
            ledger_seq=entry.seq if entry else None,
            notes=tuple(notes),
        )
    )
