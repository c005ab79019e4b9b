"""The guarded registry store: Production moves in one transaction, with evidence or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import _validate_model_version
from sqlalchemy.orm import Session

from moola.config.names import ALIAS_PRODUCTION, STAGE_ARCHIVED, STAGE_PRODUCTION
from moola.config.promotion import TAG_PROMOTION_EVIDENCE
from moola.errors import MoolaError, PromotionRefused
from moola.promotion.client_events import claimed
from moola.promotion.digest import model_files_digest
from moola.promotion.entry import MOVES, Draft, Entry
from moola.promotion.evidence import Evidence, SignedEvidence, verify
from moola.promotion.guard_core import Guard, deny
from moola.promotion.guard_files import version_files
from moola.promotion.ledger_rows import read_entries
from moola.promotion.ledger_schema import lock_for_append
from moola.promotion.lines import open_intent
from moola.promotion.referee import referee

_ASK = "Moola guards it: run `moola promote` or `moola rollback`"


class GuardedRegistryStore(SqlAlchemyStore):
    """MLflow's registry store under a `Guard`.

    Parameters
    ----------
    db_uri
        SQLAlchemy address of the registry.
    guard
        The rules.
    """

    def __init__(self, db_uri: str, *, guard: Guard):
        super().__init__(db_uri)
        self.guard = guard

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a stage; Production only with evidence, and never away from its holder."""
        if self.guard.policy.guards(name):
            version = _plain(version)
            if get_canonical_stage(stage) == STAGE_PRODUCTION:
                self._put_in_production(name, version)
                return self.get_model_version(name, version)
            if version in self._holders(name):
                self._refuse(name, version, f"version {version} of {name} holds Production")
        return super().transition_model_version_stage(
            name, version, stage, archive_existing_versions
        )

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Set an alias; one that stands for Production only with evidence."""
        if self.guard.policy.guards(name) and self.guard.policy.protects_alias(alias):
            version = _plain(version)
            if alias not in self.guard.policy.protected_aliases:
                self._refuse(name, version, f"alias {alias} looks like a protected one")
            self._put_in_production(name, version)
            if alias == ALIAS_PRODUCTION:
                return
        super().set_registered_model_alias(name, alias, version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias, but none that stands for Production."""
        if self.guard.policy.guards(name) and self.guard.policy.protects_alias(alias):
            self._refuse(name, None, f"alias {alias} of {name} stands for Production")
        super().delete_registered_model_alias(name, alias)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Rename a model without versions in Production's history or aliases that stand for it."""
        if self.guard.policy.guards(name) or self.guard.policy.guards(new_name):
            self._refuse_if_moved(name, "renamed")
            aliases = self.get_registered_model(name).aliases
            if standing := ", ".join(filter(self.guard.policy.protects_alias, sorted(aliases))):
                self._refuse(name, None, f"{name} has alias {standing}; not renamed to {new_name}")
        return super().rename_registered_model(name, new_name)

    def delete_registered_model(self, name: str) -> None:
        """Delete a model that never had a version in Production."""
        if self.guard.policy.guards(name):
            self._refuse_if_moved(name, "deleted")
        super().delete_registered_model(name)

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version that never held Production."""
        if self.guard.policy.guards(name):
            version = _plain(version)
            held = {e.version_to for e in self.guard.ledger.entries(name, events=MOVES)}
            if version in held | self._holders(name):
                self._refuse(name, version, f"version {version} of {name} has held Production")
        super().delete_model_version(name, version)

    def _put_in_production(self, name: str, version: str) -> None:
        """Check the evidence and move stage, alias, archive and ledger in one transaction."""
        self.get_model_version(name, version)  # answers 404 for what does not exist
        try:
            self.guard.note_keys()
            self.guard.ledger.check_chain()
            scored = self._refereed(name, version)
            with self.guard.files_held(exclusive=True), self._exclusive() as session:
                if self._in_production(session, name) == ({version}, version):
                    return
                evidence, signed, champion = self._checked(session, name, version)
                if scored not in (None, evidence.digest):
                    raise PromotionRefused("its evidence was replaced while the referee scored it")
                self._move(session, name, version)
                entry = self._write_down(session, evidence, signed, champion)
        except PromotionRefused as refusal:
            self._refuse(name, version, str(refusal))
        except MoolaError as error:
            self._refuse(name, version, f"the server cannot check it: {error}")
        self.guard.announce(entry)

    def _refereed(self, name: str, version: str) -> str | None:
        """Have the referee score a version; return the digest of the evidence it agrees with.

        It takes seconds, so it comes before the transaction, which then asks for the same evidence
        and the same files again.
        """
        if self.guard.policy.referee_data is None:
            return None
        with Session(self.engine) as session:
            if self._in_production(session, name) == ({version}, version):
                return None
            evidence, _, _ = self._checked(session, name, version)
            found = self._get_sql_model_version(session, name, version)
            address = found.storage_location or found.source
        if evidence.purpose != "rollback":
            with version_files(address) as folder:
                if model_files_digest(folder) != evidence.model_sha256:
                    raise PromotionRefused("its files changed while the referee read them")
                referee(folder, evidence, self.guard.policy)
        return evidence.digest

    def _checked(
        self, session: Session, name: str, version: str
    ) -> tuple[Evidence, SignedEvidence, str | None]:
        found = self._get_sql_model_version(session, name, version)
        tags = {tag.key: tag.value for tag in found.model_version_tags}
        subject = f"version {version} of {name} may not be in Production"
        if TAG_PROMOTION_EVIDENCE not in tags:
            lacking = "it carries no evidence that it passed the locked test windows"
            raise PromotionRefused(f"{subject}: {lacking}", remedy=_ASK)
        signed = SignedEvidence.from_json(tags[TAG_PROMOTION_EVIDENCE])
        evidence = verify(signed, self.guard.trusted_keys())
        champion = self._in_production(session, name)[1]
        reasons = self.guard.reasons_against(
            evidence,
            name=name,
            version=version,
            run_id=found.run_id,
            model_sha256=_files_digest(found.storage_location or found.source),
            champion=champion,
            entries=read_entries(session.connection(), name),
            user=authenticated_user(),
        )
        if reasons:
            raise PromotionRefused(f"{subject}: {'; '.join(reasons)}")
        return evidence, signed, champion

    def _in_production(self, session: Session, name: str) -> tuple[set[str], str | None]:
        """Return the holders of the stage and the version the alias names."""
        stage = session.scalars(
            sa.select(SqlModelVersion.version).where(
                SqlModelVersion.name == name, SqlModelVersion.current_stage == STAGE_PRODUCTION
            )
        )
        alias = self._get_registered_model_alias(session, name, ALIAS_PRODUCTION)
        return {str(v) for v in stage}, str(alias.version) if alias else None

    def _move(self, session: Session, name: str, version: str) -> None:
        now = get_current_time_millis()
        holders = session.scalars(
            sa.select(SqlModelVersion).where(
                SqlModelVersion.name == name, SqlModelVersion.current_stage == STAGE_PRODUCTION
            )
        )
        for holder in holders:
            holder.current_stage, holder.last_updated_time = STAGE_ARCHIVED, now
        target = self._get_sql_model_version(session, name, version)
        target.current_stage, target.last_updated_time = STAGE_PRODUCTION, now
        target.registered_model.last_updated_time = now
        for alias in target.registered_model.registered_model_aliases:
            if self.guard.policy.protects_alias(alias.alias):
                alias.version = int(version)
        session.merge(
            SqlRegisteredModelAlias(
                workspace=target.workspace, name=name, alias=ALIAS_PRODUCTION, version=int(version)
            )
        )
        session.flush()

    def _write_down(
        self, session: Session, evidence: Evidence, signed: SignedEvidence, champion: str | None
    ) -> Entry:
        connection = session.connection()
        intent = open_intent(read_entries(connection, evidence.name))
        payload = {
            "evidence": signed.to_json(),
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
            version_from=champion,
            version_to=evidence.version,
            evidence_digest=evidence.digest,
            payload=payload,
        )
        return self.guard.ledger.append_in(connection, draft)

    @contextmanager
    def _exclusive(self) -> Iterator[Session]:
        """Yield a session that alone may write registry and ledger until it ends."""
        with Session(self.engine) as session:
            if self.engine.dialect.name == "sqlite":
                session.execute(sa.text("PRAGMA foreign_keys = ON"))
                session.execute(sa.text("PRAGMA busy_timeout = 20000"))
                session.execute(sa.text("BEGIN IMMEDIATE"))
            lock_for_append(session.connection())
            yield session
            session.commit()

    def _holders(self, name: str) -> set[str]:
        """Return the versions that hold stage or alias, in one question and no transaction."""
        stage = sa.select(SqlModelVersion.version).where(
            SqlModelVersion.name == name, SqlModelVersion.current_stage == STAGE_PRODUCTION
        )
        alias = sa.select(SqlRegisteredModelAlias.version).where(
            SqlRegisteredModelAlias.name == name, SqlRegisteredModelAlias.alias == ALIAS_PRODUCTION
        )
        with self.engine.connect() as connection:
            return {str(version) for version in connection.scalars(sa.union(stage, alias))}

    def _refuse_if_moved(self, name: str, done: str) -> None:
        if self._holders(name) or self.guard.ledger.entries(name, events=MOVES):
            self._refuse(name, None, f"{name} has versions in Production's history; not {done}")

    def _refuse(self, name: str, version: str | None, why: str) -> None:
        """Write the refusal down and answer 403 with the sentence."""
        sentence = why if _ASK in why else f"{why.rstrip('.')}. {_ASK}."
        self.guard.write_down(
            Draft(
                event="refusal",
                who=attributed(None),
                name=name,
                reason=sentence,
                version_to=version,
            )
        )
        deny(sentence)


def _plain(version: str) -> str:
    """Return a version's number in its one spelling: MLflow takes ``01`` for ``1``."""
    return str(int(_validate_model_version(version)))


def _files_digest(address: str) -> str:
    with version_files(address) as folder:
        return model_files_digest(folder)


def authenticated_user() -> str | None:
    """Return the user MLflow's log-in has checked, None where there is no log-in."""
    import flask

    if not flask.has_request_context():
        return None
    user = flask.g.get("mlflow_authenticated_user")
    return None if user is None else str(user)


def attributed(claim: str | None) -> str:
    """Return who is asking; a client's own word of it only where nobody logs in, and marked so."""
    user = authenticated_user()
    if user is not None:
        return claimed(user)
    return f"{claimed(claim)} ({caller()})" if claim else caller()


def caller() -> str:
    """Return who is asking, as well as the server can know it."""
    import flask

    if user := authenticated_user():
        return user
    if flask.has_request_context() and flask.request.remote_addr:
        return f"client at {flask.request.remote_addr}"
    return "server"
