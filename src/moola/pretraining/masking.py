"""Which bars to hide: three strategies, drawn on the device that trains."""

from __future__ import annotations

import torch

from moola.config.base import check_choice, check_range
from moola.config.pretraining import MASK_STRATEGIES
from moola.errors import ConfigError


def num_hidden(strategy: str, num_bars: int, *, ratio: float, patch_size: int) -> int:
    """Return how many bars of a window of `num_bars` are masked; for ``patch`` how many patches.

    Raises ConfigError if an option is out of range, or no bar would stay visible.
    """
    check_choice("mask_strategy", strategy, MASK_STRATEGIES)
    check_range("mask_ratio", ratio, low=0, high=1, open_low=True, open_high=True)
    hidden, of, unit = max(1, round(ratio * num_bars)), num_bars, ""
    if strategy == "patch":
        hidden, of = max(1, round(hidden / patch_size)), -(-num_bars // patch_size)
        unit = f" in patches of {patch_size}"
    if hidden >= of:
        raise ConfigError(
            f"mask_ratio {ratio:g}{unit} hides all {num_bars} bars of a window",
            limit="at least one bar that stays visible",
            remedy="Lower mask_ratio or patch_size, or use longer windows",
        )
    return hidden


def draw_mask(
    strategy: str,
    num_windows: int,
    num_bars: int,
    *,
    ratio: float,
    patch_size: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return which bars are masked, shape (n, T), bool, on the generator's device.

    Every window has the same number of masked bars, ``max(1, round(ratio * T))`` (for ``patch``
    rounded to whole patches, the last of which may be shorter).

    Parameters
    ----------
    strategy
        ``random``: bars anywhere (BERT); ``block``: one contiguous stretch; ``patch``: whole
        patches of `patch_size` bars on a fixed grid (PatchTST).
    num_windows, num_bars
        n and T.
    ratio
        Share of bars to hide, above 0 and below 1.
    patch_size
        Bars of a patch, for ``patch`` alone.
    generator
        All randomness comes from it.

    Returns
    -------
    Tensor
        True where a bar is hidden.

    Raises
    ------
    ConfigError
        As ``num_hidden`` does.
    """
    hidden = num_hidden(strategy, num_bars, ratio=ratio, patch_size=patch_size)
    device = generator.device
    if strategy == "random":
        return _choose(num_windows, num_bars, hidden, generator)
    if strategy == "block":
        begin = torch.randint(
            num_bars - hidden + 1, (num_windows, 1), generator=generator, device=device
        )
        bar = torch.arange(num_bars, device=device)
        return (bar >= begin) & (bar < begin + hidden)
    num_patches = -(-num_bars // patch_size)
    chosen = _choose(num_windows, num_patches, hidden, generator)
    return chosen.repeat_interleave(patch_size, dim=1)[:, :num_bars]


def _choose(rows: int, columns: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return a bool matrix with exactly `count` True in every row, at random places."""
    noise = torch.rand((rows, columns), generator=generator, device=generator.device)
    mask = torch.zeros((rows, columns), dtype=torch.bool, device=generator.device)
    return mask.scatter_(1, noise.topk(count, dim=1).indices, True)
