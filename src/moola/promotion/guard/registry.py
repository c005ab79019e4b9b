"""The guarded registry store: Production moves in one transaction, with evidence or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
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
from mlflow.utils.validation import _validate_model_version

from moola.config.names import (
    ALIAS_PRODUCTION,
    REGISTERED_MODEL,
    STAGE_PRODUCTION,
)
from moola.config.promotion import folded
from moola.errors import MoolaError, PromotionRefused
from moola.promotion.guard.caller import attributed
from moola.promotion.guard.census import REGISTRY, close_unknown
from moola.promotion.guard.core import Guard, deny
from moola.promotion.guard.frozen import is_inside
from moola.promotion.guard.move import ASK, GuardedMoves
from moola.promotion.ledger.entry import MOVES, Draft


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
        self._moves = GuardedMoves(self, guard)

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
            promoted_versions = {
                e.version_to for e in self.guard.ledger.entries(name, events=MOVES)
            }
            if version in promoted_versions | self._holders(name):
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
        self._refuse_reserved(name, None, (tag.key,), of_model=True)
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag of a model, but none that MLflow itself decides by."""
        self._refuse_reserved(name, None, (key,), of_model=True)
        super().delete_registered_model_tag(name, key)

    def set_model_version_tag(self, name: str, version: str, tag: Any) -> None:
        """Tag a version, but not with what MLflow itself decides by."""
        self._refuse_reserved(name, _plain(version), (tag.key,))
        super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a tag of a version, but none that MLflow itself decides by."""
        self._refuse_reserved(name, _plain(version), (key,))
        super().delete_model_version_tag(name, version, key)

    def _refuse_reserved(
        self, name: str, version: str | None, keys: Iterable[str], *, of_model: bool = False
    ) -> None:
        """Refuse tags by which MLflow hides a model, or tells a prompt from a model.

        A prompt takes them, but for a tag of the whole prompt that would make it a model.
        """
        reserved = sorted(filter(_is_reserved, keys))
        if not reserved or not self.guard.policy.guards(name):
            return
        changes_kind = of_model and IS_PROMPT_TAG_KEY in map(folded, reserved)
        if self._is_prompt(name) and not changes_kind:
            return
        self._refuse(name, version, f"MLflow itself decides by tag {reserved[0]} of {name}")

    def _is_prompt(self, name: str) -> bool:
        query = sa.select(SqlRegisteredModelTag.value).where(
            SqlRegisteredModelTag.name == name, SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY
        )
        with self.engine.connect() as connection:
            return str(connection.execute(query).scalar()).lower() == "true"

    def _put_in_production(self, name: str, version: str) -> None:
        """Move Production if the evidence carries it, or refuse and write that down."""
        self.get_model_version(name, version)  # answers 404 for what does not exist
        try:
            entry = self._moves.put_in_production(name, version)
        except PromotionRefused as refusal:
            self._refuse(name, version, str(refusal))
        except MoolaError as error:
            self._refuse(name, version, f"the server cannot check it: {error}")
        if entry is not None:
            self.guard.announce(entry)

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

    def _refuse_if_moved(self, name: str, action: str) -> None:
        if self._holders(name) or self.guard.ledger.entries(name, events=MOVES):
            self._refuse(name, None, f"{name} has versions in Production's history; not {action}")

    def _refuse(self, name: str, version: str | None, why: str) -> None:
        """Write the refusal down and answer 403 with the sentence."""
        sentence = why if ASK in why else f"{why.rstrip('.')}. {ASK}."
        refusal: dict[str, Any] = {"who": attributed(None), "name": name, "version_to": version}
        with suppress(MoolaError):  # a name that no line can hold is refused all the same
            self.guard.write_down(Draft(event="refusal", reason=sentence, **refusal))
        deny(sentence)


def _plain(version: str) -> str:
    """Return a version's number in its one spelling: MLflow takes ``01`` for ``1``."""
    return str(int(_validate_model_version(version)))


def _keys(tags: Any) -> list[str]:
    return [str(tag.key) for tag in tags or ()]


def _is_reserved(key: str) -> bool:
    return folded(key).startswith(("mlflow.", "_mlflow"))


UNKNOWN_METHODS = close_unknown(GuardedRegistryStore, REGISTRY, deny)
