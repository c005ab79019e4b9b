"""How many bars a recipe needs at least: told before anything is built."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from moola.config.data import SplitRecipe, WindowRecipe
from moola.data.splits import forward_chain, walk_forward
from moola.data.windows import WindowTimes
from moola.errors import DataError

_MOST_WINDOWS = 1 << 20


def windows_needed(recipe: WindowRecipe, split: SplitRecipe) -> int:
    """Return the fewest windows, none left out, of which a split leaves no part empty.

    Found by trying, with the very functions that split. Raises DataError if no number will do.
    """
    low, high = 0, 1
    while not _splits(high, recipe, split):
        low, high = high, 2 * high
        if high > _MOST_WINDOWS:
            raise DataError(
                f"no split of {recipe.source} leaves windows in every part",
                remedy="Take fewer folds or a shorter embargo",
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _splits(middle, recipe, split) else (middle, high)
    return high


def bars_needed(recipe: WindowRecipe, splits: Iterable[SplitRecipe] = ()) -> int:
    """Return the fewest bars that a set and its splits can be built of."""
    span = recipe.bars_before + recipe.window_bars + recipe.label_bars
    windows = max((windows_needed(recipe, s) for s in splits), default=1)
    return span + (windows - 1) * recipe.step_bars


def refuse_too_few(
    name: str, recipe: WindowRecipe, splits: dict[str, SplitRecipe], num_bars: int
) -> None:
    """Raise DataError, with the numbers, if a source has fewer bars than a set and its splits need.

    Parameters
    ----------
    name, recipe
        The set.
    splits
        Its splits by name.
    num_bars
        Bars of its source.
    """
    parts = {"": bars_needed(recipe), **{n: bars_needed(recipe, [s]) for n, s in splits.items()}}
    split = max(parts, key=lambda n: parts[n])
    if num_bars >= parts[split]:
        return
    span = recipe.bars_before + recipe.window_bars + recipe.label_bars
    before = f", {recipe.bars_before} before them" * bool(recipe.bars_before)
    windows = (parts[split] - span) // recipe.step_bars + 1
    raise DataError(
        f"{recipe.source} has {num_bars:,} bars, too few for {name}"
        + f" under split {split}" * bool(split),
        limit=f"{parts[split]:,} or more: {windows:,} windows of {recipe.window_bars} bars and "
        f"{recipe.label_bars} ahead, every {recipe.step_bars} bars{before}",
        remedy="Take more bars, or a smaller window_bars, step_bars or num_folds",
    )


def _splits(num: int, recipe: WindowRecipe, split: SplitRecipe) -> bool:
    first = np.arange(num, dtype=np.int64) * recipe.step_bars
    last = first + recipe.window_bars - 1
    times = WindowTimes(first=first, last=last, label_end=last + recipe.label_bars)
    try:
        if split.strategy == "forward_chaining":
            forward_chain("x", split, times, "")
        else:
            walk_forward("x", split, times, "")
    except (DataError, ValueError):
        return False
    return True
