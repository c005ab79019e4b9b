"""The space of a hyper-parameter search, as written on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moola.config.base import check_choice
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError

TUNABLE = (
    "model", "preset", "learning_rate", "weight_decay", "dropout", "batch_size", "epochs",
    "patience", "freeze", "unfreeze_after", "unfreeze_lr_factor", "class_weight", "focal_gamma",
    "use_temporal_aug", "mixup_alpha", "cutmix_alpha",
)  # fmt: skip
_FORMS = "NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C"
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: drawn evenly in their logarithm."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool

    def __str__(self) -> str:
        return f"{self.name}={self.low!r}:{self.high!r}{':log' if self.log else ''}"

    @property
    def ends(self) -> tuple[Any, Any]:
        """The values whose configurations must be valid."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Return whether a value lies inside."""
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some values."""

    name: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.name}={','.join(str(value) for value in self.values)}"

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values whose configurations must be valid."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of them."""
        return value in self.values


Space = tuple[Range | Choice, ...]


def parse_space(words: Sequence[str], base: FinetuneConfig) -> Space:
    """Read a search space and check that its ends are configurations.

    Parameters
    ----------
    words
        Each ``learning_rate=1e-4:1e-2:log``, ``epochs=10:60`` or ``preset=compact,matched``.
    base
        What is not searched over.

    Returns
    -------
    tuple of Range and Choice
        A dimension for each word.

    Raises
    ------
    ConfigError
        For an option that cannot be searched over, a range that is none, or a value its option
        does not take.
    """
    space = tuple(_dimension(word) for word in words)
    names = [dimension.name for dimension in space]
    if not space or len(set(names)) != len(names):
        raise ConfigError(
            f"the space names {', '.join(names) or 'nothing'}", limit=f"each option once: {_FORMS}"
        )
    for dimension in space:
        for value in dimension.ends:
            configured(base, {dimension.name: value})
    return space


def fixed_options(words: Sequence[str], base: FinetuneConfig) -> FinetuneConfig:
    """Return `base` with options set, each ``preset=compact`` or ``class_weight=1,2.5``.

    Raises ConfigError for an option that cannot be set, or more than one value of one.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, kind, text = _parted(word)
        if name in values:
            raise ConfigError(f"{name} is set to {values[name]!r} and {text!r}", limit="one value")
        if ":" in text or ("," in text and name != "class_weight"):
            raise ConfigError(
                f"{name} is set to {text!r}",
                limit="one value: NAME=VALUE",
                remedy=f"Search over it instead: --space {name}={text}",
            )
        values[name] = _value(kind, name, text)
    return configured(base, values)


def configured(base: FinetuneConfig, values: Mapping[str, Any]) -> FinetuneConfig:
    """Return the configuration with some values replaced."""
    return FinetuneConfig.from_mapping({**base.to_dict(), **values})


def _dimension(word: str) -> Range | Choice:
    name, kind, text = _parted(word)
    parts = text.split(":")
    if len(parts) == 1:
        values = tuple(_value(kind, name, part) for part in text.split(","))
        return Choice(name=name, values=values)
    if kind not in (int, float) or len(parts) > 3 or parts[2:] not in ([], ["log"]):
        raise ConfigError(f"{name}={text!r} is no range", limit=_FORMS)
    low, high = (_value(kind, name, part) for part in parts[:2])
    log = len(parts) == 3
    if not (low < high and (low > 0 or not log)):
        raise ConfigError(f"{name}={text!r} is no range", limit="low < high, above 0 with log")
    return Range(name=name, low=low, high=high, log=log, whole=kind is int)


def _parted(word: str) -> tuple[str, type, str]:
    """Return an option's name, the type of its values, and what stands behind the ``=``."""
    name, _, text = word.partition("=")
    name = name.strip().replace("-", "_")
    check_choice("an option of the space", name, TUNABLE)
    return name, type(getattr(FinetuneConfig(), name)), text


def _value(kind: type, name: str, text: str) -> Any:
    text = text.strip()
    try:
        if kind is bool:
            return _TRUTH[text]
        return kind(text) if kind in (int, float) else text or None
    except (ValueError, KeyError):
        raise ConfigError(f"{name}={text!r}", limit=f"{kind.__name__} values") from None
