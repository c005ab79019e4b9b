"""The move of Production on a guarded server: one transaction, with evidence or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag, SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.orm import Session

from moola.config.names import ALIAS_PRODUCTION
from moola.config.policy import Rule
from moola.config.promotion import TAG_PROMOTION_EVIDENCE
from moola.errors import MoolaError, PromotionRefused
from moola.promotion.evidence.attestation import Evidence, SignedEvidence, verify
from moola.promotion.evidence.checks import changed_files
from moola.promotion.guard.aliases import GuardedAliases
from moola.promotion.guard.caller import attributed, authenticated_user, caller
from moola.promotion.guard.core import Guard
from moola.promotion.guard.files import State, VersionFiles
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.rows import read_entries
from moola.promotion.registry_rows import exclusive, move_in, origin_in, state_in
from moola.promotion.versions.digest import model_files_digest
from moola.promotion.versions.referee import referee

ASK = "Moola guards it: run `moola promote` or `moola rollback`"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A version that asks for Production, what speaks for it, and whom it would replace."""

    evidence: Evidence
    signed: SignedEvidence
    champion: str | None
    files: VersionFiles

    def require_digest(self, model_sha256: str) -> None:
        """Raise PromotionRefused unless the evidence is about files of this digest."""
        subject = f"version {self.evidence.version} of {self.evidence.name}"
        if reason := changed_files(self.evidence, model_sha256):
            raise PromotionRefused(f"{subject} may not be in Production: {reason}")


class GuardedMoves:
    """Moves of Production in one registry.

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
        self._aliases = GuardedAliases(store, guard)

    def put_in_production(self, name: str, version: str) -> Entry | None:
        """Check the evidence and move stage, alias, archive and ledger in one transaction.

        The order is from cheap to dear: signature, subject, policy, champion and looks first, then
        the files, read outside lock and transaction; inside, all is asked again, of the files only
        whether they are still as they were read.

        Parameters
        ----------
        name
            The registered model.
        version
            Its version, in its one spelling.

        Returns
        -------
        Entry or None
            The line in the ledger; None if the version holds Production already.

        Raises
        ------
        PromotionRefused
            With every reason why the version may not be in Production.
        MoolaError
            If it cannot be checked.
        """
        with Session(self._store.engine) as session:
            if _holds(session, name, version):
                return None
            case = self._checked(session, name, version)
        with self.guard.reading_files(caller()):
            state = self._read(case)
            read = self._aliases.read(name, version) if self._extra(name) else None
        self.guard.note_keys()
        self.guard.ledger.check_chain()
        with self.guard.files_held(exclusive=True), exclusive(self._store) as session:
            if _holds(session, name, version):
                return None
            return self._decide(session, case, state, None if read is None else read.digests)

    def why_not(self, name: str, version: str) -> str | None:
        """Return why a version may not be in Production, None if it may; nothing is moved."""
        try:
            with Session(self._store.engine) as session:
                if _holds(session, name, version):
                    return None
                case = self._checked(session, name, version)
            with self.guard.reading_files(caller()):
                self._read(case)
        except MoolaError as error:
            return str(error).rstrip(".")
        return None

    def _read(self, case: Case) -> State:
        """Read the files a case is about; return their state before they were read.

        Raises
        ------
        PromotionRefused
            If they are not those the evidence is about, or the referee finds other figures.
        """
        state = case.files.state()
        if self.guard.policy.ohlc.referee_data is None or case.evidence.purpose == "rollback":
            case.require_digest(case.files.digest())
            return state
        with case.files.copied() as folder:
            case.require_digest(model_files_digest(folder))
            referee(folder, case.evidence, self.guard.policy.ohlc)
        return state

    def _decide(
        self, session: Session, read: Case, state: State, digests: Mapping[str, str] | None
    ) -> Entry:
        """Check a case again inside the transaction, move Production and write it down."""
        name, version = read.evidence.name, read.evidence.version
        case = self._checked(session, name, version, digests)
        if case.evidence.digest != read.evidence.digest or case.files.place != read.files.place:
            raise PromotionRefused("its evidence was replaced while its files were read")
        if until := self.guard.uploads.open_until(session.connection(), case.files.place):
            raise PromotionRefused(
                f"its files may still be written to, by an upload or an address valid to {until}",
                remedy="Try again after that",
            )
        if case.files.state() != state:
            raise PromotionRefused("its files changed while they were checked")
        move_in(session, name, version)
        self._move_aliases(session, name, version)
        return self._write_down(session, case)

    def _extra(self, name: str) -> tuple[Rule, ...]:
        """Return the rules about an alias that moves, and that ask for more than the gates."""
        rules = self.guard.enforced(name)
        moving = [alias for rule in rules if rule.is_ohlc for alias in rule.aliases]
        return tuple(
            rule for rule in rules if rule.asks_more and any(map(rule.names_alias, moving))
        )

    def _checked(
        self, session: Session, name: str, version: str, digests: Mapping[str, str] | None = None
    ) -> Case:
        """Return what speaks for a version once all that needs none of its files is good."""
        run_id, address = origin_in(session, name, version)
        subject = f"version {version} of {name} may not be in Production"
        text = _promotion_evidence(session, name, version)
        if text is None:
            lacking = "it carries no evidence that it passed the locked test windows"
            raise PromotionRefused(f"{subject}: {lacking}", remedy=ASK)
        signed = SignedEvidence.from_json(text)
        evidence = verify(signed, self.guard.trusted_keys())
        champion = state_in(session, name).alias_version
        reasons = self.guard.reasons_against(
            evidence,
            name=name,
            version=version,
            run_id=run_id,
            champion=champion,
            entries=read_entries(session.connection(), name),
            user=authenticated_user(),
        )
        if evidence.purpose != "rollback" and (extra := self._extra(name)):
            asked = self._aliases.subject(session, name, version, ALIAS_PRODUCTION)
            reasons += self._aliases.extra_reasons(session, extra, replace(asked, files=digests))
        if reasons:
            raise PromotionRefused(f"{subject}: {'; '.join(reasons)}")
        files = VersionFiles(self.guard.places, str(address))
        return Case(evidence=evidence, signed=signed, champion=champion, files=files)

    def _move_aliases(self, session: Session, name: str, version: str) -> None:
        """Move every other alias of the model that stands for Production."""
        aliases = sa.select(SqlRegisteredModelAlias).where(SqlRegisteredModelAlias.name == name)
        for alias in session.scalars(aliases):
            if any(rule.is_ohlc for rule in self.guard.enforced(name, alias.alias)):
                alias.version = int(version)
        session.flush()

    def _write_down(self, session: Session, case: Case) -> Entry:
        connection, evidence = session.connection(), case.evidence
        intent = open_intent(read_entries(connection, evidence.name))
        payload = {
            "evidence": case.signed.to_json(),
            "model_sha256": evidence.model_sha256,
            "run_id": evidence.run_id,
            "gates_run_id": evidence.gates_run_id,
            "test_looks": evidence.test_looks,
            "by_server": True,
        }
        if intent is not None and intent.version_to == evidence.version:
            payload["intent"] = intent.seq
        draft = Draft(
            event="rollback" if evidence.purpose == "rollback" else "promotion",
            who=attributed(evidence.asked_by),
            name=evidence.name,
            reason=evidence.reason or "all required gates and the promotion gate passed",
            version_from=case.champion,
            version_to=evidence.version,
            evidence_digest=evidence.digest,
            payload=payload,
        )
        return self.guard.ledger.append_in(connection, draft)


def _holds(session: Session, name: str, version: str) -> bool:
    """Return whether a version holds stage and alias."""
    state = state_in(session, name)
    return state.agrees and state.alias_version == version


def _promotion_evidence(session: Session, name: str, version: str) -> str | None:
    tag = sa.select(SqlModelVersionTag.value).where(
        SqlModelVersionTag.name == name,
        SqlModelVersionTag.version == int(version),
        SqlModelVersionTag.key == TAG_PROMOTION_EVIDENCE,
    )
    return session.scalar(tag)
