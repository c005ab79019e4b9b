"""Transforms of OHLC windows that keep what makes them a market: warp, jitter and scaled wicks.

A warp reads the same price path at another pace and makes bars of it anew. To interpolate between
two bars would not do: a mean of two bars moves less than either, and in the direction of the next
one, which no market does. Torch alone, so that the same code augments a
training set in advance or a batch on the training device; all randomness is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

STEPS = 8  # parts of a bar: a bar is cut between two of them
KNOTS = 4  # of the pace
_TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class WarpDraws:
    """Random numbers of a warp: of the pace, shape (n, KNOTS), and of the path inside the bars.

    `path` is standard normal, `extremes` uniform, shapes (n, T * STEPS) and (n, 2, T * STEPS).
    """

    pace: torch.Tensor
    path: torch.Tensor
    extremes: torch.Tensor


def warp(X_NTC: torch.Tensor, draws: WarpDraws, sigma: float) -> torch.Tensor:
    """Run through each window at an uneven pace, and make as many bars of it as before.

    A warped bar opens where it begins, closes where it ends and covers what lies between: most are
    one old bar, some are two, some a half (`_first_steps`). The path inside a bar that is cut is
    drawn (`_paths`). The window's first open, last close, highest and lowest price stay.

    Parameters
    ----------
    X_NTC
        Windows in price units, shape (n, T, 4), positive, float64.
    draws
        Random numbers.
    sigma
        Standard deviation of the logarithm of the pace, over windows and bars together. A pace of
        1.2 runs through 1.2 bars in the time of one.

    Returns
    -------
    Tensor of shape (n, T, 4), price units.
    """
    log = torch.log(X_NTC)
    opens, closes, upper, lower = (level.flatten(1) for level in _paths(log, draws))
    first = _first_steps(draws.pace, sigma, X_NTC.shape[1])
    last = torch.cat([first[:, 1:] - 1, torch.full_like(first[:, :1], opens.shape[1] - 1)], dim=1)
    bar = torch.zeros_like(opens, dtype=torch.long)
    bar = bar.scatter(1, first[:, 1:], 1).cumsum(dim=1)
    empty = torch.full_like(log[..., 0], math.inf)
    return torch.exp(
        torch.stack(
            [
                opens.gather(1, first),
                (-empty).scatter_reduce(1, bar, upper, "amax"),
                empty.scatter_reduce(1, bar, lower, "amin"),
                closes.gather(1, last),
            ],
            dim=2,
        )
    )


def _paths(
    log_NTC: torch.Tensor, draws: WarpDraws
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw a path inside every bar: its steps' begins, ends, highs and lows, (n, T, STEPS) each.

    A Brownian bridge from open to close with the variance of Garman and Klass (Journal of Business
    53, 1980), and the extremes of each step given its ends: (a + b +- sqrt((a - b)^2 -
    2 s^2 ln U)) / 2. What lies above open and close is then stretched, or pressed, until the
    highest point is the bar's high, and the same below.
    """
    open_, high, low, close = log_NTC.unbind(dim=2)
    move, reach = close - open_, high - low
    variance = (0.5 * reach**2 - (2.0 * math.log(2.0) - 1.0) * move**2).clamp_min(0.0)
    variance = (variance / STEPS)[..., None]
    noise = draws.path.reshape(*move.shape, STEPS)
    walk = (noise - noise.mean(dim=2, keepdim=True)).cumsum(dim=2) * variance.sqrt()
    share = torch.arange(1, STEPS + 1, device=move.device) / STEPS
    end = open_[..., None] + share * move[..., None] + walk
    end[..., -1] = close
    begin = torch.cat([open_[..., None], end[..., :-1]], dim=2)
    chance = draws.extremes.reshape(len(move), 2, -1, STEPS).clamp_min(_TINY)
    width = torch.sqrt((begin - end)[:, None] ** 2 - 2.0 * variance[:, None] * torch.log(chance))
    middle = begin + end
    # Rounded, the extremes must not fall short of the ends.
    upper = torch.maximum((middle + width[:, 0]) / 2.0, torch.maximum(begin, end))
    lower = torch.minimum((middle - width[:, 1]) / 2.0, torch.minimum(begin, end))
    top = torch.maximum(open_, close)[..., None]
    bottom = torch.minimum(open_, close)[..., None]
    highest = (upper.amax(dim=2, keepdim=True) - top).clamp_min(_TINY)
    lowest = (bottom - lower.amin(dim=2, keepdim=True)).clamp_min(_TINY)
    up, down = (high[..., None] - top) / highest, (bottom - low[..., None]) / lowest

    def stretched(level: torch.Tensor) -> torch.Tensor:
        above, below = (level - top).clamp_min(0.0), (bottom - level).clamp_min(0.0)
        return torch.minimum(torch.maximum(level, bottom), top) + above * up - below * down

    return stretched(begin), stretched(end), stretched(upper), stretched(lower)


def _first_steps(pace_NK: torch.Tensor, sigma: float, bars: int) -> torch.Tensor:
    """Return the step at which each warped bar begins, shape (n, T), increasing.

    A bar begins where an old one does, so that most bars are old ones whole: where the pace is
    quick, some are two old ones, and where it is slow, some are a half. If all began between old
    ones, jumps would be cut in two everywhere, and their halves follow one another.
    """
    log_pace = sigma * pace_NK @ _pace_basis(bars).to(pace_NK)
    time = torch.exp(log_pace).cumsum(dim=1)
    time = pad(time[:, :-1] / time[:, -1:], (1, 0)) * bars
    old = time.round().long().clamp(max=bars - 1)
    number = torch.arange(bars, device=pace_NK.device).expand_as(old)
    is_first = torch.ones_like(old, dtype=torch.bool)
    is_first[:, 1:] = old[:, 1:] != old[:, :-1]
    pieces = torch.zeros_like(old).scatter_add(1, old, torch.ones_like(old)).gather(1, old)
    piece = number - torch.where(is_first, number, 0).cummax(dim=1).values
    steps = old * STEPS + piece * STEPS // pieces
    # More pieces than steps, at an absurd pace: the next bars give way.
    steps = (steps - number).cummax(dim=1).values + number
    return torch.minimum(steps, bars * STEPS - bars + number)


def _pace_basis(bars: int) -> torch.Tensor:
    """Return what makes standard normal knots a log pace, shape (KNOTS, bars).

    Its mean over the window is 0, since all of the window is run through, and its variance 1 on
    average over the bars.
    """
    place = np.linspace(0, KNOTS - 1, bars)
    basis = np.array([np.interp(place, range(KNOTS), row) for row in np.eye(KNOTS)])
    basis -= basis.mean(axis=1, keepdims=True)
    spread = np.sqrt((basis**2).sum(axis=0).mean())
    return torch.from_numpy(basis / spread)


def jitter(X_NTC: torch.Tensor, shift_NT: torch.Tensor) -> torch.Tensor:
    """Shift each close, and the next open with it; wicks and gaps keep their relative size.

    The logarithm of the factor is the shift times the window's mean relative bar range. The
    window's first open and last close stay.
    """
    relative = ((X_NTC[..., 1] - X_NTC[..., 2]) / X_NTC[..., 3]).mean(dim=1, keepdim=True)
    moved = torch.exp(shift_NT * relative)
    moved = torch.cat([moved[:, :-1], torch.ones_like(moved[:, -1:])], dim=1)
    before = pad(moved[:, :-1], (1, 0), value=1.0)
    open_, high, low, close = X_NTC.unbind(dim=2)
    top, bottom = torch.maximum(open_, close), torch.minimum(open_, close)
    opens, closes = open_ * before, close * moved
    highs = high / top * torch.maximum(opens, closes)
    lows = low / bottom * torch.minimum(opens, closes)
    return torch.stack([opens, highs, lows, closes], dim=2)


def scale_wicks(X_NTC: torch.Tensor, factor_N: torch.Tensor) -> torch.Tensor:
    """Multiply the wicks (what lies outside open and close) of each window by its factor.

    The lower wick is kept short of the price 0.
    """
    open_, high, low, close = X_NTC.unbind(dim=2)
    top, bottom = torch.maximum(open_, close), torch.minimum(open_, close)
    factor = factor_N[:, None]
    lower = bottom - (bottom - low) * factor
    lower = torch.where(lower > 0, lower, low)
    return torch.stack([open_, top + (high - top) * factor, lower, close], dim=2)
