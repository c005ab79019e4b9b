"""What every configuration shares: keyword-only, frozen, checks itself, unknown keys rejected."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from moola.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """How a field is explained, limited and written on the command line.

    Attributes
    ----------
    help
        One line.
    panel
        Panel of the help; None: the first one.
    low, high, open_low, open_high
        Limits of a number; ``open``: the end itself is outside.
    choices, suggested
        Words allowed; words that a shell completes where others are allowed too.
    none
        The value that means None on the command line, where None is a value.
    flag
        Name of the option where it is not the field's, such as ``--ledger`` of `ledger_url`.
    names
        Other names of the option, such as ``--dataset``.
    repeated
        The option may be given several times; of this type each.
    stored
        Folder of the data store whose names a shell completes.
    """

    help: str
    panel: str | None = None
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    suggested: tuple[str, ...] = ()
    none: int | str | None = None
    flag: str | None = None
    names: tuple[str, ...] = ()
    repeated: type | None = None
    stored: str | None = None


def options_in(kind: type) -> Mapping[str, Option]:
    """Return what is said of each field that `option` made, by its name."""
    fields = dataclasses.fields(kind)
    return {f.name: f.metadata["option"] for f in fields if "option" in f.metadata}


_KINDS: dict[type, Mapping[str, type]] = {}


def kinds_of(kind: type) -> Mapping[str, type]:
    """Return the type of each field, without None: ``int | None`` is int, a tuple is tuple."""
    if kind in _KINDS:  # a search builds thousands of configurations
        return _KINDS[kind]
    hints = typing.get_type_hints(kind)
    plain = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
        if isinstance(hint, types.UnionType) and len(parts) == 1:
            hint = parts[0]
        plain[field.name] = typing.get_origin(hint) or hint
    _KINDS[kind] = plain
    return plain


def option(default: Any, words: str, **about: Any) -> Any:
    """Return a field of a `Config`: its default, its line of help, and what `Option` says else."""
    return dataclasses.field(default=default, metadata={"option": Option(help=words, **about)})


class Config:
    """Mixin for frozen keyword-only dataclasses."""

    def __post_init__(self) -> None:
        for name, about in options_in(type(self)).items():
            value = getattr(self, name)
            if value is not None or about.none is None:
                _check(name, kinds_of(type(self))[name], value, about)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping.

        Raises ConfigError for an unknown key, with the nearest known one, and for an absent one.
        """
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        field_names = [f.name for f in fields]
        for key in values:
            if key not in field_names:
                near = difflib.get_close_matches(str(key), field_names, n=1)
                raise ConfigError(
                    f"unknown key {key!r} in {cls.__name__}",
                    limit=f"one of {', '.join(field_names)}",
                    remedy=f"Did you mean {near[0]!r}?" if near else None,
                )
        none = dataclasses.MISSING
        needed = [f.name for f in fields if f.default is none and f.default_factory is none]
        absent = [name for name in needed if name not in values]
        if absent:
            raise ConfigError(
                f"{cls.__name__} lacks {', '.join(absent)}",
                limit=f"a value for {', '.join(needed)}",
            )
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Build from a YAML file."""
        return cls.from_mapping(read_mapping(path, "configuration"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def _check(name: str, kind: type, value: Any, about: Option) -> None:
    """Raise ConfigError unless a value is of its field's kind and within its limits."""
    if about.choices:
        check_choice(name, value, about.choices)
    elif kind is int:
        high = None if about.high is None else int(about.high)
        check_count(name, value, low=int(about.low or 0), high=high)
    elif kind is float:
        low = -math.inf if about.low is None else about.low
        high_ = math.inf if about.high is None else about.high
        check_range(
            name, value, low=low, high=high_, open_low=about.open_low, open_high=about.open_high
        )
    elif kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}", limit="true or false")


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that a mapping holds twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((k for k in keys if keys.count(k) > 1 and k != "<<"), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; `what` names the file in a message.

    Parameters
    ----------
    path
        The file.
    what
        What it is, for the message: ``thresholds``, ``recipe``.

    Returns
    -------
    dict
        What it holds.

    Raises
    ------
    ConfigError
        If it cannot be read, is not YAML, or holds something else.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise ConfigError(f"{what} file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} file {path} cannot be read: {error}") from None
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}", limit="a mapping")
    return values


def check_range(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise ConfigError unless `value` is a finite number inside the interval."""
    opening, closing = "(" if open_low else "[", ")" if open_high else "]"
    inside = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (value > low if open_low else value >= low)
        and (value < high if open_high else value <= high)
    )
    if not inside:
        raise ConfigError(
            f"{name} is {value!r}", limit=f"a number in {opening}{low:g}, {high:g}{closing}"
        )


def check_count(name: str, value: int, *, low: int = 1, high: int | None = None) -> None:
    """Raise ConfigError unless `value` is a whole number of at least `low` (at most `high`)."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        top = f" and at most {high}" if high is not None else ""
        raise ConfigError(f"{name} is {value!r}", limit=f"a whole number of at least {low}{top}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ConfigError unless there is at least one seed, all whole numbers and distinct."""
    for seed in seeds:
        check_count("seeds", seed, low=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds is {list(seeds)}", limit="at least one, all distinct")


def check_list(name: str, value: Any) -> tuple[Any, ...]:
    """Return a list's values; raise ConfigError for anything else, as a text is no list."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} is {value!r}", limit="a list")
    return tuple(value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        raise ConfigError(
            f"{name} is {value!r}",
            limit=f"one of {', '.join(choices)}",
            remedy=f"Did you mean {near[0]!r}?" if near else None,
        )
