"""Aliases of any registered model on a guarded server: moved with attestations or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.orm import Session

from moola.config.names import ALIAS_PRODUCTION
from moola.config.policy import Rule
from moola.errors import MoolaError, PromotionRefused
from moola.promotion.aliases.proof import (
    AliasAnswer,
    Proof,
    aliases_asked,
    draft_of,
    draft_of_report,
    prove,
)
from moola.promotion.aliases.requirements import Subject, reasons_in
from moola.promotion.guard.caller import attributed, authenticated_user, caller
from moola.promotion.guard.core import Guard
from moola.promotion.guard.files import State, VersionFiles
from moola.promotion.ledger.entry import MOVES, Draft, Entry
from moola.promotion.ledger.local import attestations_in, belief_in
from moola.promotion.ledger.rows import read_entries
from moola.promotion.registry_rows import (
    exclusive,
    holder_in,
    origin_in,
    set_alias_in,
    state_in,
)


@dataclass(frozen=True, kw_only=True)
class Read:
    """The files of a version, and their state when they were read."""

    place: str
    state: State
    digests: Mapping[str, str]


class GuardedAliases:
    """Aliases of one registry under rules that ask for attestations.

    Parameters
    ----------
    store
        MLflow's registry store.
    guard
        The rules.
    """

    def __init__(self, store: SqlAlchemyStore, guard: Guard):
        self._store = store
        self.guard = guard

    def put(self, name: str, version: str, alias: str, rules: Sequence[Rule]) -> Entry | None:
        """Move an alias and write it down in one transaction, if every rule is met.

        What needs no file is asked first, then the files are read, and inside the transaction all
        is asked again.

        Returns
        -------
        Entry or None
            The line in the ledger; None if the version holds the alias already.

        Raises
        ------
        PromotionRefused
            With every requirement that is not met.
        """
        with Session(self._store.engine) as session:
            subject = self.subject(session, name, version, alias)
            if self._holds(session, subject):
                return None
            self._require(session, rules, subject)
        with self.guard.reading_files(caller()):
            read = self.read(name, version)
        self.guard.note_keys()
        self.guard.ledger.check_chain()
        with self.guard.files_held(exclusive=True), exclusive(self._store) as session:
            subject = replace(self.subject(session, name, version, alias), files=read.digests)
            if self._holds(session, subject):
                return None
            proof = self._require(session, rules, subject)
            self.require_unchanged(session, read, name, version)
            set_alias_in(session, name, version, alias)
            draft = draft_of(proof, who=attributed(None), server=True)
            return self.guard.ledger.append_in(session.connection(), draft)

    def report(
        self, name: str, version: str, alias: str, rules: Sequence[Rule], *, also: Sequence[str]
    ) -> Draft:
        """Return the line about a move that is not refused: what rules in report mode say of it.

        `also` is what else would be against it.
        """
        try:
            proof = self.check(name, version, alias, rules)
            reasons = [] if proof.order else reasons_in(proof.findings)
            champion = proof.subject.champion
        except MoolaError as error:
            reasons, champion = [f"it cannot be checked: {str(error).rstrip('.')}"], None
        return draft_of_report(
            rules,
            [*reasons, *also],
            name=name,
            version=version,
            alias=alias,
            champion=champion,
            who=attributed(None),
        )

    def require_more(self, name: str, version: str, alias: str, rules: Sequence[Rule]) -> None:
        """Raise PromotionRefused unless what rules ask for beside the gates is met."""
        more = [rule for rule in rules if rule.asks_more]
        if more and (reasons := reasons_in(self.check(name, version, alias, more).findings)):
            raise PromotionRefused(
                f"version {version} of {name} may not have alias {alias}: {'; '.join(reasons)}",
                remedy=f"Run `moola guard check {name}/{version}`",
            )

    def check(self, name: str, version: str, alias: str, rules: Sequence[Rule]) -> Proof:
        """Return what the rules say of a version now, its files read; nothing is changed."""
        with Session(self._store.engine) as session:
            subject = self.subject(session, name, version, alias)
        with self.guard.reading_files(caller()):
            subject = replace(subject, files=self.read(name, version).digests)
        with Session(self._store.engine) as session:
            return self._prove(session, rules, subject)

    def answers(self, name: str, version: str, alias: str | None) -> list[AliasAnswer]:
        """Return what each guarded alias requires of a version."""
        self._store.get_model_version(name, version)  # answers 404 for what does not exist
        asked = aliases_asked(self.guard.policy, name, self.guard.kind(name), alias)
        return [
            self.check(name, version, one, self.guard.rules_for(name, one)).answer for one in asked
        ]

    def subject(self, session: Session, name: str, version: str, alias: str) -> Subject:
        """Return a version that asks for an alias, its files left out."""
        run_id, _ = origin_in(session, name, version)
        return Subject(
            name=name,
            version=version,
            alias=alias,
            run_id=run_id,
            champion=holder_in(session, name, alias),
            files=None,
            registered_by=self.guard.registered_by(name, version, run_id),
        )

    def read(self, name: str, version: str) -> Read:
        """Read a version's files; raises PromotionRefused where they are not on this server."""
        with Session(self._store.engine) as session:
            _, address = origin_in(session, name, version)
        files = VersionFiles(self.guard.places, str(address))
        state = files.state()
        return Read(place=files.place, state=state, digests=files.digests())

    def require_unchanged(self, session: Session, read: Read, name: str, version: str) -> None:
        """Raise PromotionRefused unless the files are those that were read, and stay so."""
        _, address = origin_in(session, name, version)
        files = VersionFiles(self.guard.places, str(address))
        if until := self.guard.uploads.open_until(session.connection(), files.place):
            raise PromotionRefused(
                f"its files may still be written to, by an upload or an address valid to {until}",
                remedy="Try again after that",
            )
        if files.place != read.place or files.state() != read.state:
            raise PromotionRefused(
                "its files changed while they were checked",
                limit="files that stay as they are",
                remedy="Find out who writes to them, then try again",
            )

    def extra_reasons(self, session: Session, rules: Sequence[Rule], subject: Subject) -> list[str]:
        """Return what rules ask for beside the profile `ohlc` and is not met."""
        return reasons_in(self._prove(session, rules, subject).findings)

    def _require(self, session: Session, rules: Sequence[Rule], subject: Subject) -> Proof:
        promoters = self.guard.policy.ohlc.promoters
        user = authenticated_user()
        proof = self._prove(session, rules, subject)
        reasons = [] if proof.order else reasons_in(proof.findings)
        if promoters and user not in promoters:
            reasons.append(f"user {user} may not move {subject.alias}")
        if reasons:
            what = f"version {subject.version} of {subject.name} may not have alias {subject.alias}"
            remedies = [one.remedy for one in proof.findings if one.met is False and one.remedy]
            raise PromotionRefused(
                f"{what}: {'; '.join(reasons)}",
                remedy="Run " + ", then ".join(f"`{r}`" for r in dict.fromkeys(remedies))
                if remedies
                else None,
            )
        return proof

    def _prove(self, session: Session, rules: Sequence[Rule], subject: Subject) -> Proof:
        connection = session.connection()
        keys = self.guard.trusted_keys()
        moves = read_entries(connection, subject.name, events=MOVES)
        return prove(
            self.guard.policy,
            rules,
            subject,
            attestations_in(connection, subject.name, subject.version),
            keys=keys,
            moves=belief_in(connection, keys).moves(moves),
            now=self.guard.ledger.clock(),
        )

    def _holds(self, session: Session, subject: Subject) -> bool:
        if subject.alias == ALIAS_PRODUCTION:
            state = state_in(session, subject.name)
            return state.agrees and state.alias_version == subject.version
        return subject.champion == subject.version
