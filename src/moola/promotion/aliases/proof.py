"""Checking the attestations about a version against the rules for an alias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from moola.config.names import ALIAS_PRODUCTION, REGISTERED_MODEL, TAG_MODEL_DIGEST
from moola.config.policy import Kind, Policy, Rule
from moola.config.promotion import TAG_EVIDENCE
from moola.errors import TrackingError, one_line
from moola.hashing import sha256_json
from moola.promotion.aliases.requirements import (
    Attested,
    RuleAnswer,
    Subject,
    broken_glass,
    findings,
    reasons_in,
    rollback_order,
)
from moola.promotion.calls import mlflow_call
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.evidence.predicates import (
    About,
    Attestation,
    Content,
    Order,
    attest,
)
from moola.promotion.ledger.content import Event, Move
from moola.promotion.ledger.entry import MOVES, Draft, Entry, plain_version
from moola.promotion.ledger.lines import of_alias
from moola.promotion.ledger.remote import RemoteLedger
from moola.promotion.state import all_versions
from moola.promotion.versions.digest import downloaded, model_file_digests

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from moola.promotion.evidence.keys import PrivateKey
    from moola.promotion.parts import ProductionParts


Payload = dict[str, Any]  # JSON of a line of the ledger


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
    findings: tuple[RuleAnswer, ...]
    order: Attestation | None = None
    ignored: tuple[str, ...] = ()
    glass_until: datetime | None = None

    @property
    def answer(self) -> AliasAnswer:
        """What a person is told of it."""
        return AliasAnswer(
            alias=self.subject.alias,
            champion=self.subject.champion,
            registered_by=self.subject.registered_by,
            requirements=self.findings,
            ignored=self.ignored,
        )


@dataclass(frozen=True, kw_only=True)
class AliasAnswer:
    """What one alias requires of a version.

    Parameters
    ----------
    alias, champion
        The alias, and who holds it.
    registered_by
        Who registered the version; None where nobody knows.
    requirements
        Each requirement, met or not.
    ignored
        Why attestations do not count.
    """

    alias: str
    champion: str | None
    registered_by: str | None
    requirements: tuple[RuleAnswer, ...]
    ignored: tuple[str, ...]

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> AliasAnswer:
        """Return the answer that a guarded server gave as JSON."""
        try:
            requirements = tuple(RuleAnswer(**one) for one in values["requirements"])
            return cls(**{**values, "requirements": requirements, "ignored": (*values["ignored"],)})
        except (TypeError, KeyError) as error:
            raise TrackingError(
                f"the server's answer cannot be understood: {one_line(error)}",
                limit="a server of this version of Moola",
            ) from None


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
    """Check the attestations about a version against rules.

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
    payload: Payload = {
        "alias": subject.alias,
        "rules": list(proof.rules),
        "model_sha256": sha256_json(dict(subject.files)),
        "run_id": subject.run_id,
    }
    event: Event = "promotion"
    reason = f"alias {subject.alias}: " + "; ".join(
        f"{one.requirement}: {one.why}" for one in proof.findings
    )
    if proof.order is not None and isinstance(order := proof.order.content, Order):
        used = [proof.order.digest]
        reason = f"{order.action} by {proof.order.signer}: {order.reason}"
        if order.action == "rollback":
            event = "rollback"
        if proof.glass_until is not None:
            payload["unproven_until"] = proof.glass_until.isoformat()
    payload["attestations"] = list(dict.fromkeys(used))
    if server:
        payload["by_server"] = True
    return Draft(
        event=event,
        who=who,
        name=subject.name,
        reason=reason[:4000],
        version_from=subject.champion,
        version_to=subject.version,
        payload=payload,
    )


def draft_of_report(
    rules: Sequence[Rule],
    reasons: Sequence[str],
    *,
    name: str,
    version: str,
    alias: str,
    champion: str | None,
    who: str,
) -> Draft:
    """Return the line about a move that rules in report mode would refuse, or would allow."""
    text = "; ".join(reasons)
    names = ", ".join(rule.name for rule in rules)
    return Draft(
        event="observed",
        who=who,
        name=name,
        reason=f"would be refused: {text}"[:4000] if text else f"allowed by {names}",
        version_from=champion,
        version_to=version,
        payload={"alias": alias, "reasons": [reason[:1000] for reason in reasons[:50]]},
    )


def kind_in(client: MlflowClient, name: str) -> Kind:
    """Return what a model is by its tags, as a store without a guard knows it."""
    from mlflow.prompt.constants import IS_PROMPT_TAG_KEY

    with mlflow_call(f"registered model {name}", reads=True):
        tags = client.get_registered_model(name).tags
    if str(tags.get(IS_PROMPT_TAG_KEY, "")).lower() == "true":
        return "prompt"
    marks = {TAG_MODEL_DIGEST, TAG_EVIDENCE}
    marked = any(marks & set(version.tags) for version in all_versions(client, name))
    return "moola" if marked or name == REGISTERED_MODEL else "model"


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


def check(parts: ProductionParts, version: str, alias: str | None = None) -> list[AliasAnswer]:
    """Return what each guarded alias requires of a version.

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
        answers = parts.ledger.check(parts.name, version, alias)
        return [AliasAnswer.from_values(values) for values in answers]
    kind = kind_in(parts.client, parts.name)
    return [
        proof_now(
            parts,
            subject_of(parts, version, one),
            parts.rules.rules_for(parts.name, one, kind=kind),
        ).answer
        for one in aliases_asked(parts.rules, parts.name, kind, alias)
    ]


def aliases_asked(policy: Policy, name: str, kind: Kind, alias: str | None) -> list[str]:
    """Return the aliases of a model that rules are about, or the one given."""
    if alias is not None:
        return [alias]
    rules = policy.rules_for(name, kind=kind)
    return list(dict.fromkeys(alias for rule in rules for alias in rule.aliases))


def proof_now(parts: ProductionParts, subject: Subject, rules: Sequence[Rule]) -> Proof:
    """Return what rules say of a version now, by what the ledger keeps."""
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


def reasons_beside_gates(parts: ProductionParts, policy: Policy, version: str) -> list[str]:
    """Return what rules about a model under profile ``ohlc`` ask for beside it and is not met.

    A guarded server asks that itself.
    """
    if parts.ledger.moves_by_server or not any(rule.asks_more for rule in policy.rules):
        return []
    rules = policy.enforced(parts.name, kind=kind_in(parts.client, parts.name))
    moving = [alias for rule in rules if rule.is_ohlc for alias in rule.aliases]
    more = [rule for rule in rules if rule.asks_more and any(map(rule.names_alias, moving))]
    if not more:
        return []
    return reasons_in(proof_now(parts, subject_of(parts, version, ALIAS_PRODUCTION), more).findings)


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
