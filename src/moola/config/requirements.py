"""What a rule may require of a version: tests, a metric, a comparison, approvals, a profile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from moola.config.base import Config, check_choice, check_count, check_list, check_range
from moola.errors import ConfigError

Method = Literal["superior", "non-inferior"]
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_SIGNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class PassingTests(Config):
    """The newest attested test run passed.

    Parameters
    ----------
    at_least
        Tests that must have passed, of a run that counts them (JUnit); 0 asks for exit code 0 only.
    """

    at_least: int = 0

    def __post_init__(self) -> None:
        check_count("at_least of tests", self.at_least, low=0)


@dataclass(frozen=True, kw_only=True)
class Metric(Config):
    """An attested metric is within a bound.

    Parameters
    ----------
    name
        As it was attested.
    at_least, at_most
        The bound; one of the two.
    counts
        What has to be within it: the ``estimate``, or the end of its ``interval`` that is worse.
    data
        SHA-256 of the data file it was measured on; None takes any.
    """

    name: str
    at_least: float | None = None
    at_most: float | None = None
    counts: Literal["estimate", "interval"] = "estimate"
    data: str | None = None

    def __post_init__(self) -> None:
        check_text("name of metric", self.name)
        if (self.at_least is None) == (self.at_most is None):
            raise ConfigError(
                f"metric {self.name} has {'no bound' if self.at_least is None else 'two bounds'}",
                limit="at_least or at_most",
                remedy="Give one of the two; a range is two requirements",
            )
        check_range(f"bound of {self.name}", self.bound)
        check_choice(f"counts of {self.name}", self.counts, ("estimate", "interval"))
        check_digest("data", self.data)

    @property
    def bound(self) -> float:
        """The bound."""
        value = self.at_most if self.at_least is None else self.at_least
        assert value is not None
        return value


@dataclass(frozen=True, kw_only=True)
class Better(Config):
    """An attested comparison with the version that holds the alias.

    Parameters
    ----------
    metric
        As `moola compare` names it.
    margin
        By how much it has to be better, or for ``non-inferior`` may be worse; in the metric's unit.
    kind
        ``superior`` or ``non-inferior``.
    data
        SHA-256 of the data file; None takes any.
    """

    metric: str
    margin: float = 0.0
    kind: Method = "superior"
    data: str | None = None

    def __post_init__(self) -> None:
        check_text("metric of better", self.metric)
        check_range("margin", self.margin, low=0)
        check_choice("kind", self.kind, get_args(Method))
        check_digest("data", self.data)


@dataclass(frozen=True, kw_only=True)
class Approve(Config):
    """People approved, none of whom registered the version.

    Parameters
    ----------
    by
        Who may: names of trusted keys.
    people
        How many of them must.
    """

    by: tuple[str, ...]
    people: int = 1

    def __post_init__(self) -> None:
        set_texts(self, "by")
        for name in self.by:
            check_signer("by", name)
        check_count("people", self.people)
        if self.people > len(set(self.by)):
            raise ConfigError(
                f"people is {self.people}",
                limit=f"at most {len(set(self.by))}, as `by` names",
                remedy="Name more people, or ask for fewer",
            )


@dataclass(frozen=True, kw_only=True)
class Profile(Config):
    """A set of requirements of Moola's own.

    Parameters
    ----------
    name
        ``ohlc``: the gates and the locked test windows of `moola evaluate` and `moola promote`.
    """

    name: str = "ohlc"

    def __post_init__(self) -> None:
        check_choice("profile", self.name, ("ohlc",))


Requirement = PassingTests | Metric | Better | Approve | Profile
_REQUIREMENTS: Mapping[str, type[Config]] = {
    "tests": PassingTests,
    "metric": Metric,
    "better": Better,
    "approve": Approve,
    "profile": Profile,
}


def keyword_of(requirement: Requirement) -> str:
    """Return the word by which a policy names a requirement."""
    return next(word for word, kind in _REQUIREMENTS.items() if isinstance(requirement, kind))


def read_requirement(value: Any) -> Requirement:
    """Return a requirement of a file: a word, or a word with its values."""
    if isinstance(value, Requirement):
        return value
    if isinstance(value, str):
        value = {value: {}}
    values = as_mapping("a requirement", value)
    if len(values) != 1:
        raise ConfigError(
            f"a requirement names {', '.join(map(repr, values)) or 'nothing'}",
            limit=f"one of {', '.join(_REQUIREMENTS)}, each in a list item of its own",
        )
    [(word, about)] = values.items()
    check_choice("a requirement", str(word), tuple(_REQUIREMENTS))
    if word == "profile" and isinstance(about, str):
        about = {"name": about}
    kind = _REQUIREMENTS[word]
    return kind.from_mapping(as_mapping(word, about or {}))  # type: ignore[return-value]


def as_mapping(what: str, value: Any) -> Mapping[str, Any]:
    """Return keys and values; raises ConfigError for anything else."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} is {value!r}", limit="keys and values")
    return value


def set_texts(config: Config, name: str) -> None:
    """Make a field of texts a tuple, and check them."""
    values = check_list(name, getattr(config, name))
    for value in values:
        check_text(f"an entry of {name}", value)
    object.__setattr__(config, name, tuple(values))


def check_text(what: str, value: Any) -> None:
    """Raise ConfigError unless a value is a text that prints."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ConfigError(f"{what} is {value!r}", limit="a text")


def check_signer(what: str, name: str) -> None:
    """Raise ConfigError unless a name is that of a key's file."""
    if not _SIGNER.fullmatch(name):
        raise ConfigError(
            f"{what} holds {name!r}",
            limit="the name of a key's file in .moola/trusted without .pem",
            remedy="Rename the file if its name has other characters",
        )


def check_digest(what: str, value: Any) -> None:
    """Raise ConfigError unless a value is a SHA-256 or None."""
    if value is not None and not (isinstance(value, str) and _HEX_64.fullmatch(value)):
        raise ConfigError(f"{what} is {value!r}", limit="a SHA-256 of 64 hex digits")
