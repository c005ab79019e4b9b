"""Aliases of any registered model: what its rules require, and moving one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from moola.config.names import ALIAS_PRODUCTION, REGISTERED_MODEL, TAG_MODEL_DIGEST
from moola.config.policy import Kind, Policy, Rule
from moola.config.promotion import TAG_EVIDENCE
from moola.errors import PromotionRefused, TrackingError
from moola.hashing import sha256_json
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.evidence.predicates import (
    About,
    Attestation,
    Content,
    Order,
    attest,
)
from moola.promotion.ledger.base import write_refusal
from moola.promotion.ledger.content import Move
from moola.promotion.ledger.entry import MOVES, Draft, Entry, plain_version
from moola.promotion.ledger.lines import alias_of, of_alias
from moola.promotion.ledger.local import LocalLedger, attestations_in, belief_in
from moola.promotion.ledger.remote import RemoteLedger
from moola.promotion.ledger.rows import read_entries
from moola.promotion.registry_rows import (
    exclusive,
    holder_in,
    origin_in,
    set_alias_in,
    store_beside,
)
from moola.promotion.requirements import (
    Attested,
    Finding,
    Subject,
    broken_glass,
    findings,
    reasons_in,
    rollback_order,
)
from moola.promotion.state import all_versions
from moola.promotion.versions.digest import downloaded, model_file_digests

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from moola.promotion.evidence.keys import PrivateKey
    from moola.promotion.parts import ProductionParts


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the rules for an alias say of a version.

    Parameters
    ----------
    subject
        The version.
    rules
        That were asked.
    findings
        Each requirement of each rule.
    order
        A signed order that lets it through all the same: a rollback, or broken glass.
    ignored
        Why other attestations about it do not count.
    glass_until
        Up to when an alias moved by breaking the glass may stay unproven.
    """

    subject: Subject
    rules: tuple[str, ...]
    findings: tuple[Finding, ...]
    order: Attestation | None = None
    ignored: tuple[str, ...] = ()
    glass_until: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return {
            "alias": self.subject.alias,
            "champion": self.subject.champion,
            "registered_by": self.subject.registered_by,
            "requirements": [dataclasses.asdict(one) for one in self.findings],
            "ignored": list(self.ignored),
        }


def prove(
    policy: Policy,
    rules: Sequence[Rule],
    subject: Subject,
    envelopes: Iterable[str],
    *,
    keys: TrustedKeys,
    moves: Sequence[Entry],
    now: datetime,
) -> Proof:
    """Hold what is attested about a version against rules.

    Parameters
    ----------
    policy
        Says who may break the glass.
    rules
        That match model and alias.
    subject
        The version.
    envelopes
        Stored attestations about it.
    keys
        The trusted keys.
    moves
        Promotions and rollbacks of the model that count, whatever the alias.
    now
        The ledger's time.
    """
    attested = Attested.read(envelopes, subject, keys, now)
    used = [d for e in moves if isinstance(e.content, Move) for d in e.content.attestations]
    before = any(_is_of(entry, subject) for entry in of_alias(list(moves), subject.alias))
    order = rollback_order(subject, attested, used, before)
    until = None
    if order is None and (order := broken_glass(policy, subject, attested, now, used)) is not None:
        assert policy.break_glass is not None
        until = order.about.time + timedelta(hours=policy.break_glass.hours)
    return Proof(
        subject=subject,
        rules=tuple(rule.name for rule in rules),
        findings=tuple(findings(rules, subject, attested, now)),
        order=order,
        ignored=attested.ignored,
        glass_until=until,
    )


def _is_of(move: Entry, subject: Subject) -> bool:
    """Return whether a move gave the alias to this version with these very files."""
    content = move.content
    if not isinstance(content, Move) or content.version != subject.version:
        return False
    return subject.files is None or content.model_sha256 == sha256_json(dict(subject.files))


def draft_of(proof: Proof, *, who: str, server: bool = False) -> Draft:
    """Return the line about a move that is proven, or ordered."""
    subject = proof.subject
    assert subject.files is not None
    used = [digest for one in proof.findings for digest in one.attestations]
    payload: dict[str, Any] = {
        "alias": subject.alias,
        "rules": list(proof.rules),
        "model_sha256": sha256_json(dict(subject.files)),
        "run_id": subject.run_id,
    }
    event = "promotion"
    reason = f"alias {subject.alias}: " + "; ".join(
        f"{one.requirement}: {one.why}" for one in proof.findings
    )
    if proof.order is not None and isinstance(order := proof.order.content, Order):
        used = [proof.order.digest]
        reason = f"{order.action} by {proof.order.signer}: {order.reason}"
        event = "rollback" if order.action == "rollback" else "promotion"
        if proof.glass_until is not None:
            payload["unproven_until"] = proof.glass_until.isoformat()
    payload["attestations"] = list(dict.fromkeys(used))
    if server:
        payload["by_server"] = True
    return Draft(
        event="rollback" if event == "rollback" else "promotion",
        who=who,
        name=subject.name,
        reason=reason[:4000],
        version_from=subject.champion,
        version_to=subject.version,
        payload=payload,
    )


def kind_in(client: MlflowClient, name: str) -> Kind:
    """Return what a model is by its tags, as a store without a guard knows it."""
    from mlflow.prompt.constants import IS_PROMPT_TAG_KEY

    with mlflow_call(f"registered model {name}", reads=True):
        tags = client.get_registered_model(name).tags
    if str(tags.get(IS_PROMPT_TAG_KEY, "")).lower() == "true":
        return "prompt"
    marks = {TAG_MODEL_DIGEST, TAG_EVIDENCE}
    own = any(marks & set(version.tags) for version in all_versions(client, name))
    return "moola" if own or name == REGISTERED_MODEL else "model"


def subject_of(parts: ProductionParts, version: str, alias: str) -> Subject:
    """Return a version that asks for an alias, with the digests of its files."""
    client, name = parts.client, parts.name
    with mlflow_call(f"version {version} of {name}", reads=True):
        model_version = client.get_model_version(name, version)
        aliases = client.get_registered_model(name).aliases
    run_id = model_version.run_id or None
    with downloaded(client, name, version) as folder:
        files = model_file_digests(folder)
    holder = aliases.get(alias)
    return Subject(
        name=name,
        version=version,
        alias=alias,
        run_id=run_id,
        champion=None if holder is None else str(holder),
        files=files,
        registered_by=registered_by(client, run_id),
    )


def registered_by(client: MlflowClient, run_id: str | None) -> str | None:
    """Return who made the run of a version, by the run's own word; None where there is none."""
    if run_id is None:
        return None
    with mlflow_call(f"run {run_id}", reads=True):
        user = client.get_run(run_id).data.tags.get("mlflow.user")
    return user or None


def check(parts: ProductionParts, version: str, alias: str | None = None) -> list[dict[str, Any]]:
    """Return what each guarded alias requires of a version, as plain values.

    Parameters
    ----------
    parts
        Of the model; a guarded server answers by its own policy.
    version
        The version.
    alias
        The alias; None: every alias that a rule names.

    Raises
    ------
    PromotionRefused
        If there is no such version.
    """
    version = plain_version(version)
    if isinstance(parts.ledger, RemoteLedger):
        return parts.ledger.check(parts.name, version, alias)
    kind = kind_in(parts.client, parts.name)
    answers = []
    for one in aliases_asked(parts.rules, parts.name, kind, alias):
        rules = parts.rules.rules_for(parts.name, one, kind=kind)
        answers.append(_proof(parts, subject_of(parts, version, one), rules).to_dict())
    return answers


def aliases_asked(policy: Policy, name: str, kind: Kind, alias: str | None) -> list[str]:
    """Return the aliases of a model that rules are about, or the one given."""
    if alias is not None:
        return [alias]
    rules = policy.rules_for(name, kind=kind)
    return list(dict.fromkeys(alias for rule in rules for alias in rule.aliases))


def _proof(parts: ProductionParts, subject: Subject, rules: Sequence[Rule]) -> Proof:
    view = parts.ledger.read(parts.keys)
    return prove(
        parts.rules,
        rules,
        subject,
        parts.ledger.attestations(subject.name, subject.version),
        keys=parts.keys,
        moves=view.belief.moves(view.entries(subject.name, events=MOVES)),
        now=parts.ledger.clock(),
    )


def about(subject: Subject, *, at: datetime, data: Sequence[str] = ()) -> About:
    """Return what an attestation about a version begins with."""
    return About(
        model=subject.name,
        version=subject.version,
        run_id=subject.run_id or "",
        created_at=at.isoformat(timespec="microseconds"),
        data=tuple(data),
        aliases=(subject.alias,) if subject.champion == subject.version else (),
        champions={subject.alias: subject.champion} if subject.champion else {},
    )


def attest_version(
    parts: ProductionParts,
    subject: Subject,
    content: Content,
    key: PrivateKey,
    *,
    data: Sequence[str] = (),
) -> str:
    """Sign something about a version, keep it beside the ledger, and return its digest."""
    assert subject.files is not None
    envelope = attest(
        about(subject, at=parts.ledger.clock(), data=data), content, subject.files, key
    )
    return parts.ledger.attest(envelope.to_json())


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
            raise PromotionRefused(f"it already holds {alias}")
        if order is not None and key is not None and not dry_run:
            order = dataclasses.replace(order, champion=subject.champion or "")
            attest_version(parts, subject, order, key)
        if isinstance(parts.ledger, RemoteLedger):
            return _by_server(parts, parts.ledger, plan)
        entry = _on_plain_store(parts, subject, ordered=order is not None, dry_run=dry_run)
    except PromotionDenied:
        raise
    except PromotionRefused as refusal:
        raise _denied(parts, plan, refusal) from refusal
    return dataclasses.replace(plan, ledger_seq=None if entry is None else entry.seq)


def alias_findings(
    parts: ProductionParts, attested_moves: Sequence[Entry], moves: Sequence[Entry]
) -> tuple[list[str], list[str]]:
    """Return what is wrong with aliases that attestations moved, and what should be known.

    Of every version that got one, its files must be those attested and the attestations must be
    stored and signed by a key that counts; who holds an alias must be whom the ledger says; and
    what was moved by breaking the glass must be proven in time.

    Parameters
    ----------
    parts
        Of the model.
    attested_moves
        Moves that count and rest on attestations.
    moves
        All moves that count.
    """
    wrong: list[str] = []
    notes: list[str] = []
    with mlflow_call(f"registered model {parts.name}", reads=True):
        holders = parts.client.get_registered_model(parts.name).aliases
    kind = kind_in(parts.client, parts.name)
    newest = {(alias_of(one), str(one.version_to)): one for one in attested_moves}
    for (alias, version), move in newest.items():
        try:
            wrong += _move_findings(parts, move, version, alias)
        except (PromotionRefused, TrackingError) as error:
            wrong.append(f"version {version}: {str(error).rstrip('.')}")
    for alias in dict.fromkeys(alias_of(move) for move in moves):
        last = of_alias(list(moves), alias)[-1]
        holder = holders.get(alias)
        if alias != ALIAS_PRODUCTION and str(holder) != last.version_to:
            wrong.append(f"the ledger has version {last.version_to} as {alias}, it names {holder}")
        if isinstance(content := last.content, Move) and content.unproven_until is not None:
            state = _glass(parts, last, content.unproven_until, alias, kind)
            (wrong if parts.ledger.clock() > content.unproven_until else notes).extend(state)
    moved = {alias_of(move) for move in moves}
    for alias in aliases_asked(parts.rules, parts.name, kind, None):
        if alias in holders and alias not in moved and alias != ALIAS_PRODUCTION:
            notes.append(f"version {holders[alias]} is {alias} by no line that counts")
    return wrong, notes


def _move_findings(parts: ProductionParts, move: Entry, version: str, alias: str) -> list[str]:
    """Return what is wrong with what a move rests on."""
    content = move.content
    assert isinstance(content, Move)
    subject = subject_of(parts, version, alias)
    assert subject.files is not None
    if content.model_sha256 != sha256_json(dict(subject.files)):
        return [f"version {version}: its files were changed after it became {alias}"]
    texts = parts.ledger.attestations(parts.name, version)
    attested = Attested.read(texts, subject, parts.keys, parts.ledger.clock())
    there = {one.digest for one in attested.counting}
    return [
        f"version {version}: attestation {digest[:16]} of ledger entry {move.seq} is not kept, or "
        "no key that counts signed it"
        for digest in content.attestations
        if digest not in there
    ]


def _glass(
    parts: ProductionParts, move: Entry, until: datetime, alias: str, kind: Kind
) -> list[str]:
    """Return that a holder is unproven still, after the glass was broken for it."""
    version = str(move.version_to)
    rules = parts.rules.rules_for(parts.name, alias, kind=kind)
    proof = _proof(parts, subject_of(parts, version, alias), rules)
    if not reasons_in(proof.findings):
        return []
    return [
        f"version {version} is {alias} by breaking the glass (ledger entry {move.seq}); to be "
        f"proven or replaced by {until:%Y-%m-%d %H:%M}"
    ]


def previous_holder(parts: ProductionParts, alias: str) -> str:
    """Return who held an alias before its present holder; raises PromotionRefused for nobody."""
    from moola.promotion.rollback import previous_champion

    view = parts.ledger.read(parts.keys)
    before = previous_champion(view.belief.moves(view.moves(parts.name, alias)))
    if before is None:
        raise PromotionRefused(f"no earlier version held {alias} of {parts.name}")
    return before


def _by_server(parts: ProductionParts, ledger: RemoteLedger, plan: Decision) -> Decision:
    assert plan.alias is not None
    if plan.dry_run:
        [answer] = ledger.check(plan.name, plan.version, plan.alias) or [{"requirements": []}]
        found = [Finding(**one) for one in answer["requirements"]]
        if reasons := reasons_in(found):
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
    parts: ProductionParts, subject: Subject, *, ordered: bool, dry_run: bool
) -> Entry | None:
    """Check, compare and move in one transaction of registry and ledger."""
    kind = kind_in(parts.client, parts.name)
    rules = parts.rules.rules_for(subject.name, subject.alias, kind=kind)
    if not rules:
        raise PromotionRefused(
            f"no rule is about alias {subject.alias} of {subject.name}",
            remedy="Write one into .moola/policy.yaml, or set the alias with MLflow: it is free",
        )
    _require_met(_proof(parts, subject, rules), ordered=ordered)
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
    with exclusive(store) as session:
        connection = session.connection()
        if holder_in(session, subject.name, subject.alias) != subject.champion:
            raise PromotionRefused(f"{subject.alias} was moved while this was checked")
        if origin_in(session, subject.name, subject.version)[0] != subject.run_id:
            raise PromotionRefused(f"version {subject.version} names another run by now")
        moves = read_entries(connection, subject.name, events=MOVES)
        proof = prove(
            policy,
            policy.rules_for(subject.name, subject.alias, kind=kind),
            subject,
            attestations_in(connection, subject.name, subject.version),
            keys=keys,
            moves=belief_in(connection, keys).moves(moves),
            now=ledger.clock(),
        )
        _require_met(proof, ordered=ordered)
        set_alias_in(session, subject.name, subject.version, subject.alias)
        entry = ledger.append_in(connection, draft_of(proof, who=parts.who))
    ledger.note(entry, compared=False)
    return entry


def _require_met(proof: Proof, *, ordered: bool) -> None:
    if ordered and proof.order is None:
        raise PromotionRefused(
            "the order does not count",
            limit="for a rollback a version that held the alias with these files; to break the "
            "glass a signer that break_glass of the policy names",
        )
    reasons = [] if proof.order else reasons_in(proof.findings)
    if any(one.met is None for one in proof.findings) and not proof.order:
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
