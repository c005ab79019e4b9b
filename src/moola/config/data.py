"""Recipes: from which bars a window set is cut, how it is labelled and how it is split."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from moola.config.base import (
    Config,
    check_choice,
    check_count,
    check_list,
    check_range,
    read_mapping,
)
from moola.errors import ConfigError, DataError

RULE_CLASSES = {
    "expansion": 2,
    "expansion_direction": 3,
    "expansion_expected": 2,
    "expansion_past": 2,
    "expansion_rank": 3,
    "triple_barrier": 3,
}
PAST_LABELS = ("expansion_past", "expansion_rank")  # held against bars before the window
LABELS = ("none", *RULE_CLASSES, "file")
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
        ``none``, a rule (`moola.data.labels.label_windows` says what each asks: ``expansion``,
        ``expansion_expected`` and ``expansion_past`` have 2 classes, ``expansion_direction``,
        ``expansion_rank`` and ``triple_barrier`` 3) or ``file`` (your own).
    horizon_bars
        Bars after the window that its label looks at, H. With ``file``, of the labels that state
        no end of their own.
    cross_gaps
        Whether a window, label horizon included, may span a gap in the time line.
    gap_bars
        A gap is a distance of two bars of more than this many usual (median) ones.
    exclude_repeated
        Whether a window, label horizon included, must not touch a block of bars that repeats.
    barrier_width
        ``triple_barrier`` only: distance of the barriers from the window's last close, in standard
        deviations of the window's close-to-close changes times sqrt(H).
    past_bars
        ``expansion_past`` and ``expansion_rank`` only: bars before the window whose H-bar stretches
        the label is held against.
    label_file
        ``file`` only: bare name of a file in ``data/labels/`` (CSV or parquet).
    label_timezone
        ``file`` only: zone of the label file's times that name none. None: the zone that the times
        of the bars were given; if those named their own, such label times are refused.
    class_names
        ``file`` only: names of the classes 0, 1, ...; the file may hold names or numbers.
    """

    source: str
    start: str | None = None
    end: str | None = None
    window_bars: int = 105
    step_bars: int = 6
    label: str = "expansion"
    horizon_bars: int = 6
    cross_gaps: bool = False
    gap_bars: float = 1.5
    exclude_repeated: bool = True
    barrier_width: float = 1.0
    past_bars: int = 1000
    label_file: str | None = None
    label_timezone: str | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name("source", self.source, "a bar set")
        check_choice("label", self.label, LABELS)
        free = self.label in ("none", "file")
        check_count("horizon_bars", self.horizon_bars, low=0 if free else 1)
        check_count("window_bars", self.window_bars, low=max(2, self.horizon_bars))
        check_count("step_bars", self.step_bars)
        check_range("barrier_width", self.barrier_width, low=0, open_low=True)
        check_range("gap_bars", self.gap_bars, low=1)
        check_count("past_bars", self.past_bars, low=self.horizon_bars + 1)
        for name in ("cross_gaps", "exclude_repeated"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", limit="true or false")
        for name in ("start", "end"):
            value: Any = getattr(self, name)
            if isinstance(value, date):  # what YAML makes of a time without quotes
                object.__setattr__(self, name, value.isoformat())
            parse_utc(getattr(self, name), name)
        self._check_own_labels()

    def _check_own_labels(self) -> None:
        class_names = check_list("class_names", self.class_names)
        for number, name in enumerate(class_names):
            _check_class_name(number, name)
        object.__setattr__(self, "class_names", tuple(class_names))
        if self.label != "file":
            if self.label_file is not None or self.class_names or self.label_timezone:
                raise ConfigError(
                    "label_file, label_timezone or class_names are given, but label is "
                    f"{self.label!r}",
                    limit="label: file",
                )
            return
        check_name("label_file", self.label_file, "a file in data/labels")
        if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) < 2:
            raise ConfigError(
                f"class_names is {list(self.class_names)!r}", limit="two or more different names"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values; what only another kind of label uses is left out."""
        values = super().to_dict()
        values["class_names"] = list(self.class_names)
        if self.label != "triple_barrier":
            del values["barrier_width"]
        if self.label not in PAST_LABELS:
            del values["past_bars"]
        if self.label != "file":
            del values["label_file"], values["class_names"]
        if self.label_timezone is None:
            del values["label_timezone"]
        return values

    @property
    def num_classes(self) -> int:
        """Number of label classes, 0 for an unlabelled set."""
        if self.label == "none":
            return 0
        return RULE_CLASSES.get(self.label, len(self.class_names))

    @property
    def bars_before(self) -> int:
        """Bars before a window that its label is held against, mostly 0."""
        return self.past_bars if self.label in PAST_LABELS else 0

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
        ``forward_chaining`` (train, val, test) or ``walk_forward`` (folds, locked test).
    train_fraction, val_fraction
        Shares of the set; what is left is the locked test part.
    num_folds
        Folds of ``walk_forward``, cut from the part before the test part.
    train_blocks
        ``walk_forward`` only: each fold trains on at most this many blocks, the latest ones
        (rolling). None: on all before it (expanding).
    embargo_bars
        Further bars between the end of one part's labels and the next part's first bar.
    """

    labeled: str
    strategy: str = "forward_chaining"
    train_fraction: float = 0.60
    val_fraction: float = 0.15
    num_folds: int = 5
    embargo_bars: int = 0
    train_blocks: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.labeled, str):
            raise ConfigError(
                f"labeled is {self.labeled!r}", limit="a set, for example labeled_windows/v1"
            )
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
        if self.train_blocks is not None:
            check_count("train_blocks", self.train_blocks)
            if self.strategy != "walk_forward":
                raise ConfigError(
                    f"train_blocks is {self.train_blocks}, but strategy is {self.strategy!r}",
                    limit="strategy: walk_forward",
                )


def _check_class_name(number: int, name: object) -> None:
    """Refuse what YAML made of a name (``no`` becomes false) and numbers of other classes."""
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(
            f"class_names holds {name!r}, of type {type(name).__name__}",
            limit="texts",
            remedy="Quote the names: YAML reads yes, no, on, off and numbers as other values",
        )
    if name.strip().lstrip("+-").isdigit() and name != str(number):
        raise ConfigError(
            f"class {number} is called {name!r}", limit="a name that is no other class's number"
        )


def qualified(version: str, kind: str) -> str:
    """Return ``kind/version``, or `version` as it is where it names its kind."""
    return version if "/" in version else f"{kind}/{version}"


def check_name(name: str, value: object, what: str) -> None:
    """Raise ConfigError unless `value` is a bare name that cannot lead out of its folder."""
    bare = isinstance(value, str) and value and not value.startswith(".")
    if not bare or any(c in str(value) for c in "/\\\0"):
        raise ConfigError(f"{name} is {value!r}", limit=f"the bare name of {what}")


def load_recipes(
    path: Path | None = None,
) -> tuple[dict[str, WindowRecipe], dict[str, SplitRecipe]]:
    """Read window sets and splits from a YAML file (default: the recipes that ship with Moola)."""
    if path is None:
        from importlib import resources  # slow to import, and `moola --help` imports this module

        text = resources.files("moola.config").joinpath("recipes.yaml").read_text()
        values = yaml.safe_load(text)
    else:
        values = read_mapping(path, "recipe")
    if set(values) - {"sets", "splits"}:
        raise ConfigError("recipes hold something else", limit="a mapping of sets and splits")
    sets = {k: WindowRecipe.from_mapping(v) for k, v in _section(values, "sets").items()}
    splits = {k: SplitRecipe.from_mapping(v) for k, v in _section(values, "splits").items()}
    return sets, splits


def _section(values: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    section = values.get(name) or {}
    if not isinstance(section, dict) or not all(isinstance(v, dict) for v in section.values()):
        raise ConfigError(f"recipes: {name} holds something else", limit="names with mappings")
    for key in section:
        if not isinstance(key, str):
            raise ConfigError(
                f"recipes: {name} holds the name {key!r}, of type {type(key).__name__}",
                limit="texts",
                remedy="Quote it: YAML reads yes, no, on, off and numbers as other values",
            )
    return section


def parse_utc(value: str | None, name: str = "time") -> datetime | None:
    """Return an aware UTC datetime; a time without a zone is taken as UTC."""
    if value is None:
        return None
    from moola.times import read_time  # reads with pyarrow, and `moola --help` imports this module

    try:
        return read_time(str(value))
    except DataError as error:
        raise ConfigError(
            f"{name} is {value!r}: {error.problem}",
            limit="a time, for example 2017-04-01T00:00 or 2017-04-01T00:00+02:00",
        ) from None
