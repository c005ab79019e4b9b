"""Targets that bars give of themselves, one a step: direction, swing, candle."""

from __future__ import annotations

import torch

IGNORED = -100
NUM_CLASSES = (2, 3, 4)  # of direction, swing and candle
_DOJI_SHARE, _STRONG_SHARE = 0.1, 0.6


def bar_targets(x_NTC: torch.Tensor, horizon_bars: int) -> dict[str, torch.Tensor]:
    """Return the class of each bar under three tasks, each of shape (n, T), int64.

    A step's targets depend on its own bar and those at most `horizon_bars` before and after it;
    where they would reach out of the window they are `IGNORED`. All are unchanged when prices are
    multiplied or shifted, so normalised windows give the same.

    Parameters
    ----------
    x_NTC
        Windows, shape (n, T, 4).
    horizon_bars
        How far direction looks ahead, and swing to both sides.

    Returns
    -------
    dict
        ``direction``: 1 where the close `horizon_bars` on is higher, else 0. ``swing``: 1 where the
        high is the highest of the bars around, 2 where the low is the lowest, else 0 (also
        where both hold). ``candle``: 0 doji (body at most a tenth of the range), 1 rising and 2
        falling with a body of at least six tenths, 3 anything between.
    """
    return {
        "direction": _direction(x_NTC[..., 3], horizon_bars),
        "swing": _swing(x_NTC[..., 1], x_NTC[..., 2], horizon_bars),
        "candle": _candle(x_NTC),
    }


def _direction(close_NT: torch.Tensor, horizon: int) -> torch.Tensor:
    target = torch.full(close_NT.shape, IGNORED, dtype=torch.int64, device=close_NT.device)
    if horizon < close_NT.shape[1]:
        target[:, :-horizon] = (close_NT[:, horizon:] > close_NT[:, :-horizon]).long()
    return target


def _swing(high_NT: torch.Tensor, low_NT: torch.Tensor, horizon: int) -> torch.Tensor:
    target = torch.full(high_NT.shape, IGNORED, dtype=torch.int64, device=high_NT.device)
    width = 2 * horizon + 1
    if width <= high_NT.shape[1]:
        inside = slice(horizon, high_NT.shape[1] - horizon)
        top = high_NT[:, inside] >= high_NT.unfold(1, width, 1).amax(dim=2)
        bottom = low_NT[:, inside] <= low_NT.unfold(1, width, 1).amin(dim=2)
        target[:, inside] = torch.where(top & bottom, 0, top.long() + 2 * bottom.long())
    return target


def _candle(x_NTC: torch.Tensor) -> torch.Tensor:
    open_, high, low, close = x_NTC.unbind(dim=2)
    body, reach = close - open_, high - low
    strong = torch.where(body > 0, 1, 2)
    size = body.abs()
    kind = torch.where(size >= _STRONG_SHARE * reach, strong, torch.full_like(strong, 3))
    return torch.where(size <= _DOJI_SHARE * reach, torch.zeros_like(kind), kind)
