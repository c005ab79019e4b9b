"""Recipes: from which bars a window set is cut, how it is labelled and how it is split."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from moola.config.base import Config, check_choice, check_count, check_range
from moola.errors import ConfigError

LABELS = ("none", "expansion", "expansion_direction")
STRATEGIES = ("forward_chaining", "walk_forward")


@dataclass(frozen=True, kw_only=True)
class WindowRecipe(Config):
    """How one window set is cut from one source of bars.

    Parameters
    ----------
    source
        Name of the bar set, ``data/bars/<source>.parquet``.
    start, end
        UTC times, ISO 8601. The first bar of every window is at or after `start`; the last bar of
        every window, label horizon included, is before `end`. None: no bound.
    window_bars
        Bars a window, T.
    step_bars
        Bars between the starts of two neighbouring windows.
    label
        ``none``, ``expansion`` (2 classes) or ``expansion_direction`` (3 classes).
    horizon_bars
        Bars after the window that its label looks at, H.
    cross_gaps
        Whether a window, label horizon included, may span a gap in the time line.
    """

    source: str
    start: str | None = None
    end: str | None = None
    window_bars: int = 105
    step_bars: int = 6
    label: str = "expansion"
    horizon_bars: int = 6
    cross_gaps: bool = False

    def __post_init__(self) -> None:
        if not self.source or any(c in self.source for c in "/\\") or self.source.startswith("."):
            raise ConfigError(f"source is {self.source!r}", limit="the bare name of a bar set")
        check_choice("label", self.label, LABELS)
        check_count("horizon_bars", self.horizon_bars, low=0 if self.label == "none" else 1)
        check_count("window_bars", self.window_bars, low=max(2, self.horizon_bars))
        check_count("step_bars", self.step_bars)
        for name in ("start", "end"):
            parse_utc(getattr(self, name), name)

    @property
    def num_classes(self) -> int:
        """Number of label classes, 0 for an unlabelled set."""
        return {"none": 0, "expansion": 2, "expansion_direction": 3}[self.label]

    @property
    def label_bars(self) -> int:
        """Bars of the label horizon, 0 for an unlabelled set."""
        return 0 if self.label == "none" else self.horizon_bars


@dataclass(frozen=True, kw_only=True)
class SplitRecipe(Config):
    """How one labelled set is cut into parts, always forward in time.

    Parameters
    ----------
    labeled
        The set, for example ``labeled_windows/v1``.
    strategy
        ``forward_chaining`` (train, val, test) or ``walk_forward`` (expanding folds, locked test).
    train_fraction, val_fraction
        Shares of the set; what is left is the locked test part.
    num_folds
        Folds of ``walk_forward``, cut from the part before the test part.
    embargo_bars
        Further bars between the end of one part's labels and the next part's first bar.
    """

    labeled: str
    strategy: str = "forward_chaining"
    train_fraction: float = 0.60
    val_fraction: float = 0.15
    num_folds: int = 5
    embargo_bars: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                f"split strategy is {self.strategy!r}",
                limit=f"one of {', '.join(STRATEGIES)}",
                remedy="Random and stratified splits leak the future into training",
            )
        check_range("train_fraction", self.train_fraction, low=0, high=1, open_low=True)
        check_range("val_fraction", self.val_fraction, low=0, high=1, open_low=True)
        if self.train_fraction + self.val_fraction >= 1:
            raise ConfigError(
                f"train_fraction + val_fraction is {self.train_fraction + self.val_fraction:g}",
                limit="less than 1, so that a test part is left",
            )
        check_count("num_folds", self.num_folds)
        check_count("embargo_bars", self.embargo_bars, low=0)


def load_recipes(path: Path | None = None) -> tuple[dict[str, WindowRecipe], dict[str, SplitRecipe]]:
    """Read window sets and splits from a YAML file (default: the recipes that ship with Moola)."""
    if path is None:
        text = resources.files("moola.config").joinpath("recipes.yaml").read_text()
    else:
        try:
            text = Path(path).read_text()
        except FileNotFoundError:
            raise ConfigError(f"recipe file {path} does not exist") from None
    try:
        values: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipes are not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or set(values) - {"sets", "splits"}:
        raise ConfigError("recipes hold something else", limit="a mapping of sets and splits")
    sets = {k: WindowRecipe.from_mapping(v) for k, v in (values.get("sets") or {}).items()}
    splits = {k: SplitRecipe.from_mapping(v) for k, v in (values.get("splits") or {}).items()}
    return sets, splits


def parse_utc(value: str | None, name: str = "time") -> datetime | None:
    """Return an aware UTC datetime; a time without a zone is taken as UTC."""
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(f"{name} is {value!r}", limit="an ISO 8601 time") from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
