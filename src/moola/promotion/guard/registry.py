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
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.validation import _validate_model_version

from moola.config.names import (
    ALIAS_PRODUCTION,
    REGISTERED_MODEL,
    STAGE_PRODUCTION,
)
from moola.config.policy import Rule
from moola.config.promotion import folded
from moola.errors import MoolaError, PromotionRefused
from moola.promotion.guard.aliases import GuardedAliases
from moola.promotion.guard.caller import attributed, authenticated_user
from moola.promotion.guard.census import REGISTRY, close_unknown
from moola.promotion.guard.core import MOOLA_TAGS, Guard, deny
from moola.promotion.guard.frozen import is_inside
from moola.promotion.guard.move import ASK, GuardedMoves
from moola.promotion.ledger.entry import MOVES, Draft

PROMPT_SOURCES = ("dummy-source", "prompt-template")  # what MLflow gives a version of a prompt
ASK_CHECK = "Moola guards it: `moola guard check {}` says what is missing"


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
        self.aliases = GuardedAliases(self, guard)

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a stage; Production only with evidence, and never away from its holder."""
        rules = self.guard.rules_for(name, ALIAS_PRODUCTION)
        line = None
        if rules:
            version = _plain(version)
            if get_canonical_stage(stage) == STAGE_PRODUCTION:
                line = self._report(name, version, ALIAS_PRODUCTION, rules)
                if _enforced(rules):
                    self._put(name, version, ALIAS_PRODUCTION, rules)
                    self._write_down(line)
                    return self.get_model_version(name, version)
            elif version in self._holders(name, (ALIAS_PRODUCTION,)):
                sentence = f"version {version} of {name} holds Production"
                self._refuse_or_report(rules, name, version, sentence)
        moved = super().transition_model_version_stage(
            name, version, stage, archive_existing_versions
        )
        self._write_down(line)
        return moved

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Set an alias; one that a rule is about only as the rule allows."""
        rules = self.guard.rules_for(name, alias)
        line = None
        if rules:
            version = _plain(version)
            line = self._report(name, version, alias, rules)
        if enforced := _enforced(rules):
            if alias not in _aliases(enforced):
                self._refuse(name, version, _lookalike(alias))
            self._put(name, version, alias, rules)
            if alias == ALIAS_PRODUCTION or not any(rule.is_ohlc for rule in enforced):
                self._write_down(line)
                return
        super().set_registered_model_alias(name, alias, version)
        self._write_down(line)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias, but none that a rule guards."""
        sentence = f"alias {alias} of {name} is guarded: it can be moved, not deleted"
        if rules := self.guard.rules_for(name, alias):
            self._refuse_or_report(rules, name, None, sentence)
        super().delete_registered_model_alias(name, alias)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Rename a model without versions in Production's history or guarded aliases."""
        rules = (*self.guard.rules_for(name), *self.guard.rules_for(new_name))
        if rules:
            self._require_never_moved(rules, name, "renamed", (ALIAS_PRODUCTION,))
            aliases = self.get_registered_model(name).aliases
            guarded = [a for a in sorted(aliases) if any(rule.names_alias(a) for rule in rules)]
            if words := ", ".join(guarded):
                sentence = f"{name} has alias {words}; not renamed to {new_name}"
                self._refuse_or_report(rules, name, None, sentence)
        kind = self.guard.kind(name)
        origins = [origin for origin in self.guard.ledger.origins(name) if origin.version]
        renamed = super().rename_registered_model(name, new_name)
        self.guard.ledger.note_origin(new_name, kind=kind, who=attributed(None))
        for origin in origins:  # who registered a version stays known under the new name
            self.guard.ledger.note_origin(
                new_name, origin.version, kind=origin.kind, who=origin.who
            )
        return renamed

    def delete_registered_model(self, name: str) -> None:
        """Delete a model that never had a version in Production."""
        if rules := self.guard.rules_for(name):
            self._require_never_moved(rules, name, "deleted", _aliases(rules))
        super().delete_registered_model(name)

    def delete_model_version(self, name: str, version: str) -> None:
        """Delete a version that never held Production or a guarded alias."""
        if rules := self.guard.rules_for(name):
            version = _plain(version)
            promoted = {e.version_to for e in self.guard.ledger.entries(name, events=MOVES)}
            if version in promoted | self._holders(name, _aliases(rules)):
                sentence = f"version {version} of {name} has held Production"
                self._refuse_or_report(rules, name, version, sentence)
        super().delete_model_version(name, version)

    def create_registered_model(
        self, name: str, tags: Any = None, *args: Any, **kwargs: Any
    ) -> RegisteredModel:
        """Create a registered model; the name of a guarded one is not for a prompt."""
        if IS_PROMPT_TAG_KEY in map(folded, _keys(tags)):
            sentence = f"{name} is a guarded model, not a prompt"
            if name == REGISTERED_MODEL:
                self._refuse(name, None, sentence)
            by_name = tuple(rule for rule in self.guard.policy.rules if name in rule.models)
            if by_name:
                self._refuse_or_report(by_name, name, None, sentence)
        created = super().create_registered_model(name, tags, *args, **kwargs)
        kind = "prompt" if _is_prompt(tags) else "model"
        self.guard.ledger.note_origin(name, kind=kind, who=attributed(None))
        return created

    def create_model_version(
        self, name: str, source: str, run_id: str | None = None, tags: Any = None, **kwargs: Any
    ) -> ModelVersion:
        """Register a version, but none whose place is above a frozen one."""
        self._refuse_reserved(name, None, _keys(tags))
        if self.guard.enforced(name):
            place = self.guard.places.of(source)
            if any(is_inside(frozen, place) for frozen in self.guard.frozen().places):
                deny(f"{source} holds files of a version that held Production; give a folder below")
        elif (
            source not in PROMPT_SOURCES
            and self.guard.kind(name) == "prompt"
            and (rules := self.guard.policy.rules_for(name, kind="model"))
        ):
            sentence = f"{name} is a prompt, and a prompt's version has no files"
            self._refuse_or_report(rules, name, None, sentence)
        version = super().create_model_version(name, source, run_id, tags, **kwargs)
        if (user := authenticated_user()) is not None:
            number = str(version.version)
            self.guard.ledger.note_origin(name, number, kind="version", who=user)
        return version

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
        if tag.key in MOOLA_TAGS and self.guard.kind(name) == "model":
            self.guard.ledger.note_origin(name, kind="moola", who=attributed(None))

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
        if not reserved or not self.guard.policy.by_name(name):
            return
        changes_kind = of_model and IS_PROMPT_TAG_KEY in map(folded, reserved)
        if self.guard.kind(name) != "prompt":
            rules = self.guard.rules_for(name)
        else:
            rules = self.guard.policy.rules_for(name, kind="model") if changes_kind else ()
        if rules:
            sentence = f"MLflow itself decides by tag {reserved[0]} of {name}"
            self._refuse_or_report(rules, name, version, sentence)

    def _report(self, name: str, version: str, alias: str, rules: tuple[Rule, ...]) -> Draft | None:
        """Return the line about what rules in report mode would say of a move; None without any."""
        reported = tuple(rule for rule in rules if rule.mode == "report")
        if not reported:
            return None
        also = [] if alias in _aliases(reported) else [_lookalike(alias)]
        if any(rule.is_ohlc for rule in reported) and (why := self._moves.why_not(name, version)):
            also.append(why)
        return self.aliases.report(name, version, alias, reported, also=also)

    def _put(self, name: str, version: str, alias: str, rules: tuple[Rule, ...]) -> None:
        """Move a guarded alias if the rules that refuse are met, or refuse and write that down."""
        self.get_model_version(name, version)  # answers 404 for what does not exist
        enforced = _enforced(rules)
        try:
            if any(rule.is_ohlc for rule in enforced):
                if alias != ALIAS_PRODUCTION:  # of Production the move itself asks
                    self.aliases.require_more(name, version, alias, enforced)
                entry = self._moves.put_in_production(name, version)
            else:
                entry = self.aliases.put(name, version, alias, enforced)
        except PromotionRefused as refusal:
            self._refuse(name, version, str(refusal))
        except MoolaError as error:
            self._refuse(name, version, f"the server cannot check it: {error}")
        if entry is not None:
            self.guard.announce(entry)

    def _holders(self, name: str, aliases: Iterable[str]) -> set[str]:
        """Return the versions that hold stage or aliases, in one question and no transaction."""
        stage = sa.select(SqlModelVersion.version).where(
            SqlModelVersion.name == name, SqlModelVersion.current_stage == STAGE_PRODUCTION
        )
        alias = sa.select(SqlRegisteredModelAlias.version).where(
            SqlRegisteredModelAlias.name == name,
            SqlRegisteredModelAlias.alias.in_([*aliases]),
        )
        with self.engine.connect() as connection:
            return {str(version) for version in connection.scalars(sa.union(stage, alias))}

    def _require_never_moved(
        self, rules: tuple[Rule, ...], name: str, action: str, aliases: Iterable[str]
    ) -> None:
        if self._holders(name, aliases) or self.guard.ledger.entries(name, events=MOVES):
            sentence = f"{name} has versions in Production's history; not {action}"
            self._refuse_or_report(rules, name, None, sentence)

    def _refuse_or_report(
        self, rules: tuple[Rule, ...], name: str, version: str | None, sentence: str
    ) -> None:
        """Refuse under a rule that enforces; under rules that report, write down that one would."""
        if _enforced(rules):
            self._refuse(name, version, sentence)
        reason = f"would be refused: {sentence}"
        who = attributed(None)
        line = Draft(event="reported", who=who, name=name, reason=reason, version_to=version)
        self._write_down(line)

    def _write_down(self, draft: Draft | None) -> None:
        if draft is not None:
            self.guard.write_down(draft)

    def _refuse(self, name: str, version: str | None, why: str) -> None:
        """Write the refusal down and answer 403 with the sentence."""
        ohlc = any(rule.is_ohlc for rule in self.guard.rules_for(name))
        ask = ASK if ohlc or version is None else ASK_CHECK.format(f"{name}/{version}")
        sentence = why if ASK in why or "Run `moola" in why else f"{why.rstrip('.')}. {ask}."
        refusal: dict[str, Any] = {"who": attributed(None), "name": name, "version_to": version}
        with suppress(MoolaError):  # a name that no line can hold is refused all the same
            self.guard.write_down(Draft(event="refusal", reason=sentence, **refusal))
        deny(sentence)


def _plain(version: str) -> str:
    """Return a version's number in its one spelling: MLflow takes ``01`` for ``1``."""
    return str(int(_validate_model_version(version)))


def _enforced(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.mode == "enforce")


def _aliases(rules: Iterable[Rule]) -> list[str]:
    return [alias for rule in rules for alias in rule.aliases]


def _lookalike(alias: str) -> str:
    return f"alias {alias} looks like a protected one"


def _is_prompt(tags: Any) -> bool:
    return any(
        tag.key == IS_PROMPT_TAG_KEY and str(tag.value).lower() == "true" for tag in tags or ()
    )


def _keys(tags: Any) -> list[str]:
    return [str(tag.key) for tag in tags or ()]


def _is_reserved(key: str) -> bool:
    return folded(key).startswith(("mlflow.", "_mlflow"))


UNKNOWN_METHODS = close_unknown(GuardedRegistryStore, REGISTRY, deny)
