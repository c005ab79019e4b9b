"""Which aliases of which models are guarded, and what each of them requires."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self, get_args

from moola.config.base import (
    Config,
    check_choice,
    check_list,
    check_range,
    read_mapping,
)
from moola.config.names import ALIAS_PRODUCTION
from moola.config.promotion import POLICY_FILE, PromotionPolicy, folded
from moola.config.requirements import (
    Approve,
    PassingTests,
    Profile,
    Requirement,
    as_mapping,
    check_signer,
    check_text,
    keyword_of,
    read_requirement,
    set_texts,
)
from moola.errors import ConfigError

Mode = Literal["report", "enforce"]
Make = Literal["any", "moola"]
Kind = Literal["model", "moola", "prompt"]
DEFAULT_ALIASES = (ALIAS_PRODUCTION, "champion")
POLICY_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Rule(Config):
    """What some aliases of some models require.

    Parameters
    ----------
    name
        For people; every message about the rule names it.
    models
        Names of registered models, as shell patterns.
    aliases
        The aliases; ``production`` is stage Production too. However they are spelt.
    require
        What has to hold, all of it.
    mode
        ``enforce`` refuses; ``report`` refuses nothing and writes down what would have been.
    signed_by
        Names of trusted keys whose attestations count; empty: every trusted key.
    max_age_days
        Attestations older than this do not count; None: no limit.
    made_by
        ``moola``: only models that `moola train` registered.
    prompts
        Whether MLflow's prompts of such names are guarded too.
    """

    name: str
    require: tuple[Requirement, ...]
    models: tuple[str, ...] = ("*",)
    aliases: tuple[str, ...] = DEFAULT_ALIASES
    mode: Mode = "enforce"
    signed_by: tuple[str, ...] = ()
    max_age_days: float | None = None
    made_by: Make = "any"
    prompts: bool = False

    def __post_init__(self) -> None:
        check_text("name of a rule", self.name)
        for values in ("models", "aliases", "signed_by"):
            set_texts(self, values)
        # However it is spelt: it is the stage too, and moves under its one name.
        spelt = (ALIAS_PRODUCTION if folded(a) == ALIAS_PRODUCTION else a for a in self.aliases)
        object.__setattr__(self, "aliases", tuple(spelt))
        required = tuple(map(read_requirement, check_list("require", self.require)))
        object.__setattr__(self, "require", required)
        for values in ("models", "aliases", "require"):
            if not getattr(self, values):
                raise ConfigError(f"{values} of rule {self.name} is empty", limit="at least one")
        for signer in self.signed_by:
            check_signer(f"signed_by of rule {self.name}", signer)
        check_choice(f"mode of rule {self.name}", self.mode, get_args(Mode))
        check_choice(f"made_by of rule {self.name}", self.made_by, get_args(Make))
        if not isinstance(self.prompts, bool):
            raise ConfigError(f"prompts is {self.prompts!r}", limit="true or false")
        if self.max_age_days is not None:
            check_range("max_age_days", self.max_age_days, low=0, open_low=True)
        if self.is_ohlc and not any(folded(a) == ALIAS_PRODUCTION for a in self.aliases):
            raise ConfigError(
                f"rule {self.name} has profile ohlc and aliases {list(self.aliases)}",
                limit="production among them: the profile decides about Production",
                remedy="Add production, or write a second rule for the other aliases",
            )

    @property
    def is_ohlc(self) -> bool:
        """Whether it asks for the gates and the locked test windows."""
        return any(isinstance(requirement, Profile) for requirement in self.require)

    @property
    def asks_kind(self) -> bool:
        """Whether it depends on what a model is, not on its name alone."""
        return self.made_by != "any" or not self.prompts

    @property
    def asks_more(self) -> bool:
        """Whether it asks for anything beside the gates and the locked test windows."""
        return any(not isinstance(requirement, Profile) for requirement in self.require)

    def names_model(self, name: str, kind: Kind) -> bool:
        """Return whether it is about a registered model, whatever the alias."""
        if kind == "prompt" and not self.prompts:
            return False
        if self.made_by == "moola" and kind != "moola":
            return False
        return any(fnmatchcase(name, pattern) for pattern in self.models)

    def names_alias(self, alias: str) -> bool:
        """Return whether it is about an alias, however that is spelt."""
        return folded(alias) in map(folded, self.aliases)


@dataclass(frozen=True, kw_only=True)
class BreakGlass(Config):
    """Who may move a guarded alias without what it requires, and for how long that holds.

    Parameters
    ----------
    by
        Names of trusted keys.
    hours
        After that `moola verify` fails until the version is proven or replaced.
    """

    by: tuple[str, ...]
    hours: float = 24.0

    def __post_init__(self) -> None:
        set_texts(self, "by")
        if not self.by:
            raise ConfigError("by of break_glass is empty", limit="at least one name of a key")
        for name in self.by:
            check_signer("by of break_glass", name)
        check_range("hours", self.hours, low=0, high=24 * 31, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Policy(Config):
    """The policy in force: rules by model and alias.

    Parameters
    ----------
    rules
        All that match hold.
    mode
        Of the rules that name none.
    break_glass
        Who may move an alias without evidence; None: nobody.
    ohlc
        What profile ``ohlc`` requires, and the settings of the server.
    version
        Of this form of the file.
    """

    rules: tuple[Rule, ...]
    mode: Mode = "enforce"
    break_glass: BreakGlass | None = None
    ohlc: PromotionPolicy = field(default_factory=PromotionPolicy)
    version: int = POLICY_VERSION

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, get_args(Mode))
        rules_read: tuple[Any, ...] = check_list("rules", self.rules)
        rules = tuple(rule if isinstance(rule, Rule) else self._rule(rule) for rule in rules_read)
        object.__setattr__(self, "rules", rules)
        names = [rule.name for rule in rules]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(
                f"two rules are named {twice!r}",
                limit="one name for each rule",
                remedy="Rename one",
            )

    def _rule(self, values: Any) -> Rule:
        return Rule.from_mapping({"mode": self.mode, **as_mapping("a rule", values)})

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the policy of a file's values; without ``version`` it is one of the first form.

        Raises
        ------
        ConfigError
            For an unknown key, with the nearest known one, and for a value out of its limits.
        """
        if "version" not in values:
            return cls.for_ohlc(PromotionPolicy.from_mapping(values))
        if values["version"] != POLICY_VERSION or isinstance(values["version"], bool):
            raise ConfigError(
                f"version of the policy is {values['version']!r}",
                limit=f"{POLICY_VERSION}, or no version for the first form",
                remedy="Update Moola if a newer one wrote the file",
            )
        fields = dict(values)
        server = {key: fields.pop(key) for key in SERVER_KEYS if key in fields}
        profile = as_mapping("ohlc", fields.pop("ohlc", {}))
        for key in ("models", "protected_aliases", *SERVER_KEYS):
            if key in profile:
                raise ConfigError(
                    f"ohlc holds {key}",
                    limit=f"{key} at the top of the file" if key in SERVER_KEYS else "a rule's",
                )
        fields["ohlc"] = PromotionPolicy.from_mapping({**profile, **server})
        if fields.get("break_glass") is not None:
            about = as_mapping("break_glass", fields["break_glass"])
            fields["break_glass"] = BreakGlass.from_mapping(about)
        return cls.from_mapping(fields)

    @classmethod
    def for_ohlc(cls, profile: PromotionPolicy) -> Self:
        """Return the policy that a file of the first form means: every model under its gates."""
        models = tuple(map(glob.escape, profile.models)) or ("*",)
        rule = Rule(
            name="ohlc", models=models, aliases=profile.protected_aliases, require=(Profile(),),
            prompts=True,
        )  # fmt: skip
        return cls(rules=(rule,), ohlc=profile)

    @classmethod
    def without_file(cls) -> Self:
        """Return the policy where nobody wrote one: Moola's own models guarded, others reported."""
        moolas = Rule(
            name="ohlc", aliases=(ALIAS_PRODUCTION,), require=(Profile(),), made_by="moola"
        )
        others = Rule(name="others", require=(PassingTests(),), mode="report")
        return cls(rules=(moolas, others))

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Return the policy of a file of either form."""
        return cls.from_values(read_mapping(path, "policy"))

    @classmethod
    def in_force(cls, project: Path) -> Self:
        """Return the policy of a project's ``.moola/policy.yaml``, or `without_file`."""
        path = Path(project) / POLICY_FILE
        return cls.from_yaml(path) if path.exists() else cls.without_file()

    def by_name(self, name: str, alias: str | None = None) -> tuple[Rule, ...]:
        """Return the rules about a model of that name, if it is of the right kind."""
        return tuple(
            rule
            for rule in self.rules
            if any(fnmatchcase(name, pattern) for pattern in rule.models)
            and (alias is None or rule.names_alias(alias))
        )

    def rules_for(self, name: str, alias: str | None = None, *, kind: Kind) -> tuple[Rule, ...]:
        """Return the rules about a model, or about one of its aliases.

        Of a model made by Moola, the rules for other people's models do not ask for more.
        """
        rules = [rule for rule in self.rules if rule.names_model(name, kind)]
        if kind == "moola" and any(rule.made_by == "moola" for rule in rules):
            rules = [rule for rule in rules if rule.made_by == "moola" or rule.mode == "enforce"]
        return tuple(rule for rule in rules if alias is None or rule.names_alias(alias))

    def enforced(self, name: str, alias: str | None = None, *, kind: Kind) -> tuple[Rule, ...]:
        """Return the rules that refuse, of `rules_for`."""
        rules = self.rules_for(name, alias, kind=kind)
        return tuple(rule for rule in rules if rule.mode == "enforce")

    def signers(self) -> dict[str, tuple[str, ...]]:
        """Return every name of a key that a rule asks for, with the rules that do."""
        asked: dict[str, tuple[str, ...]] = {}
        for rule in self.rules:
            wanted = [*rule.signed_by]
            for requirement in rule.require:
                wanted += requirement.by if isinstance(requirement, Approve) else ()
            for signer in dict.fromkeys(wanted):
                asked[signer] = (*asked.get(signer, ()), rule.name)
        for signer in self.break_glass.by if self.break_glass else ():
            asked[signer] = (*asked.get(signer, ()), "break_glass")
        return asked

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values, each requirement under its name."""
        values = dataclasses.asdict(self)
        for stored, rule in zip(values["rules"], self.rules, strict=True):
            stored["require"] = [{keyword_of(r): dataclasses.asdict(r)} for r in rule.require]
        return values


SERVER_KEYS = ("promoters", "max_body_mib", "webhooks")
