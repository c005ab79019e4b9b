"""The guarded registry store: Production moves in one transaction, with evidence or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import _validate_model_version
from sqlalchemy.orm import Session

from moola.config.names import (
    ALIAS_PRODUCTION,
    REGISTERED_MODEL,
    STAGE_ARCHIVED,
    STAGE_PRODUCTION,
)
from moola.config.promotion import TAG_PROMOTION_EVIDENCE, folded
from moola.errors import MoolaError, PromotionRefused
from moola.promotion.checks import changed_files
from moola.promotion.digest import model_files_digest
from moola.promotion.evidence import Evidence, SignedEvidence, verify
from moola.promotion.guard_census import REGISTRY, close_unknown
from moola.promotion.guard_core import Guard, deny
from moola.promotion.guard_files import State, VersionFiles
from moola.promotion.guard_frozen import is_inside
from moola.promotion.ledger import MOVES, Draft, Entry, append_entry, open_intent, read_entries
from moola.promotion.ledger_schema import lock_for_append
from moola.promotion.referee import referee

_ASK = "Moola guards it: run `moola promote` or `moola rollback`"


@dataclass(frozen=True, kw_only=True)
class _Case:
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

    def create_registered_model(
        self, name: str, tags: Any = None, *args: Any, **kwargs: Any
    ) -> RegisteredModel:
        """Create a registered model; the name of a guarded one is not for a prompt."""
        models = (REGISTERED_MODEL, *self.guard.policy.models)
        if name in models and IS_PROMPT_TAG_KEY in map(folded, _keys(tags)):
            self._refuse(name, None, f"{name} is a guarded model, not a prompt")
        return super().create_registered_model(name, tags, *args, **kwargs)

    def create_model_version(
        self, name: str, source: str, run_id: str | None = None, tags: Any = None, **kwargs: Any
    ) -> ModelVersion:
        """Register a version, but none whose place is above a frozen one."""
        if self.guard.policy.guards(name):
            self._refuse_reserved(name, None, _keys(tags))
            place = self.guard.places.of(source)
            if any(is_inside(frozen, place) for frozen in self.guard.frozen().places):
                deny(f"{source} holds files of a version that held Production; give a folder below")
        return super().create_model_version(name, source, run_id, tags, **kwargs)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Tag a model, but not with what MLflow itself decides by."""
        self._refuse_reserved(name, None, (tag.key,))
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag of a model, but none that MLflow itself decides by."""
        self._refuse_reserved(name, None, (key,))
        super().delete_registered_model_tag(name, key)

    def set_model_version_tag(self, name: str, version: str, tag: Any) -> None:
        """Tag a version, but not with what MLflow itself decides by."""
        self._refuse_reserved(name, version, (tag.key,))
        super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a tag of a version, but none that MLflow itself decides by."""
        self._refuse_reserved(name, version, (key,))
        super().delete_model_version_tag(name, version, key)

    def _refuse_reserved(self, name: str, version: str | None, keys: Iterable[str]) -> None:
        """Refuse tags by which MLflow hides a model, or tells a prompt from a model."""
        reserved = sorted(filter(_is_reserved, keys))
        if not reserved or not self.guard.policy.guards(name):
            return
        makes_a_prompt = IS_PROMPT_TAG_KEY in map(folded, reserved)
        if self._is_prompt(name) and (version is not None or not makes_a_prompt):
            return
        self._refuse(name, version, f"MLflow itself decides by tag {reserved[0]} of {name}")

    def _is_prompt(self, name: str) -> bool:
        query = sa.select(SqlRegisteredModelTag.value).where(
            SqlRegisteredModelTag.name == name, SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY
        )
        with self.engine.connect() as connection:
            return str(connection.execute(query).scalar()).lower() == "true"

    def _put_in_production(self, name: str, version: str) -> None:
        """Check the evidence and move stage, alias, archive and ledger in one transaction.

        The order is from cheap to dear: signature, subject, policy, champion and looks first, then
        the files, read outside lock and transaction; inside, all is asked again, of the files only
        whether they are still as they were read.
        """
        self.get_model_version(name, version)  # answers 404 for what does not exist
        try:
            with Session(self.engine) as session:
                if self._in_production(session, name) == ({version}, version):
                    return
                case = self._checked(session, name, version)
            with self.guard.reading_files(caller()):
                state = self._read(case)
            self.guard.note_keys()
            with self.guard.files_held(exclusive=True), self._exclusive() as session:
                if self._in_production(session, name) == ({version}, version):
                    return
                entry = self._decide(session, case, state)
        except PromotionRefused as refusal:
            self._refuse(name, version, str(refusal))
        except MoolaError as error:
            self._refuse(name, version, f"the server cannot check it: {error}")
        self.guard.announce(entry)

    def _read(self, case: _Case) -> State:
        """Read the files a case is about; return their state before they were read.

        Raises
        ------
        PromotionRefused
            If they are not those the evidence is about, or the referee finds other figures.
        """
        state = case.files.state()
        if self.guard.policy.referee_data is None or case.evidence.purpose == "rollback":
            case.require_digest(case.files.digest())
            return state
        with case.files.copied() as folder:
            case.require_digest(model_files_digest(folder))
            referee(folder, case.evidence, self.guard.policy)
        return state

    def _decide(self, session: Session, read: _Case, state: State) -> Entry:
        """Check a case again inside the transaction, move Production and write it down."""
        case = self._checked(session, read.evidence.name, read.evidence.version)
        if case.evidence.digest != read.evidence.digest or case.files.place != read.files.place:
            raise PromotionRefused("its evidence was replaced while its files were read")
        if until := self.guard.uploads.open_until(session.connection(), case.files.place):
            raise PromotionRefused(
                f"its files may still be written to, by an upload or an address valid to {until}",
                remedy="Try again after that",
            )
        if case.files.state() != state:
            raise PromotionRefused("its files changed while they were checked")
        self._move(session, case.evidence.name, case.evidence.version)
        return self._write_down(session, case.evidence, case.signed, case.champion)

    def _checked(self, session: Session, name: str, version: str) -> _Case:
        """Return what speaks for a version once all that needs none of its files is good."""
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
            champion=champion,
            entries=read_entries(session.connection(), name),
            user=authenticated_user(),
        )
        if reasons:
            raise PromotionRefused(f"{subject}: {'; '.join(reasons)}")
        files = VersionFiles(self.guard.places, str(found.storage_location or found.source))
        return _Case(evidence=evidence, signed=signed, champion=champion, files=files)

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
            who=f"{evidence.asked_by} ({caller()})" if evidence.asked_by else caller(),
            name=evidence.name,
            reason=evidence.reason or "all required gates and the promotion gate passed",
            version_from=champion,
            version_to=evidence.version,
            evidence_digest=evidence.digest,
            payload=payload,
        )
        return append_entry(connection, draft, at=self.guard.ledger.clock())

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
            Draft(event="refusal", who=caller(), name=name, reason=sentence, version_to=version)
        )
        deny(sentence)


def _plain(version: str) -> str:
    """Return a version's number in its one spelling: MLflow takes ``01`` for ``1``."""
    return str(int(_validate_model_version(version)))


def _keys(tags: Any) -> list[str]:
    return [str(tag.key) for tag in tags or ()]


def _is_reserved(key: str) -> bool:
    return folded(key).startswith(("mlflow.", "_mlflow"))


def authenticated_user() -> str | None:
    """Return the user MLflow's log-in has checked, None where there is no log-in."""
    import flask

    if not flask.has_request_context():
        return None
    user = flask.g.get("mlflow_authenticated_user")
    return None if user is None else str(user)


def caller() -> str:
    """Return who is asking, as well as the server can know it."""
    import flask

    if user := authenticated_user():
        return user
    if flask.has_request_context() and flask.request.remote_addr:
        return f"client at {flask.request.remote_addr}"
    return "server"


UNKNOWN_METHODS = close_unknown(GuardedRegistryStore, REGISTRY, deny)
