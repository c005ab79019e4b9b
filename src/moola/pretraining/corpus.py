"""The corpus while it trains: held on the device whole, or streamed from the memory map."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moola.config.pretraining import CorpusConfig
from moola.data.windows import check_windows, normalise
from moola.errors import ConfigError
from moola.pretraining.data_augmentation import TimeSeriesAugmenter, normalise_batch
from moola.pretraining.distributed import Share

_CHUNK = 8192


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A process's part of a batch: windows on the device, their rows, the whole batch's size."""

    x: torch.Tensor
    rows: torch.Tensor
    num_windows: int


class Corpus:
    """Windows by row, normalised, on the training device.

    With augmentation, row ``c * n + i`` is copy c of window i; copy 0 is the window itself.

    Parameters
    ----------
    X_NTC
        Windows in price units, shape (n, T, 4), in time order; may be a memory map.
    device
        ``cpu`` or ``cuda``.
    max_resident_mb
        Above this size the windows stay where they are and batches are streamed.
    augmenter, num_augmentations
        Augmented copies; drawn anew for each batch.
    materialise_seed
        Make the copies once, now, from this seed.
    """

    def __init__(
        self,
        X_NTC: NDArray,
        *,
        device: str,
        max_resident_mb: int = 4096,
        augmenter: TimeSeriesAugmenter | None = None,
        num_augmentations: int = 0,
        materialise_seed: int | None = None,
    ):
        self.device = device
        self.num_windows, self.window_bars = X_NTC.shape[:2]
        self.num_copies = num_augmentations if augmenter else 0
        self._fresh = augmenter if materialise_seed is None else None
        copies = 0 if self._fresh else self.num_copies
        self.resident = X_NTC[:1].nbytes * len(X_NTC) * (copies + 1) <= max_resident_mb << 20
        if augmenter is not None and not self._fresh:
            X_NTC = augmenter.augment_dataset(X_NTC, copies, seed=materialise_seed or 0)
        self._source = X_NTC
        self._held = self._hold() if self.resident else None

    def rows(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """Return the rows of the given windows and of all their copies, on the device."""
        copies = np.arange(self.num_copies + 1)[:, None] * self.num_windows
        return torch.from_numpy((copies + windows).reshape(-1)).to(self.device)

    def windows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return windows as they are, normalised, shape (len(rows), T, 4)."""
        if self._held is None:
            return torch.from_numpy(normalise(self._source[rows.cpu().numpy()])).to(self.device)
        block = self._held[rows]
        return normalise_batch(block) if self._fresh else block

    def batches(
        self, order: torch.Tensor, batch_size: int, draw: torch.Generator, share: Share
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, in the given order of rows."""
        whole = order.split(batch_size)
        parts = [share.take(rows) for rows in whole]
        loaded = self._gathered(parts) if self._held is not None else self._streamed(parts)
        for rows, part, x in zip(whole, parts, loaded, strict=True):
            if self._fresh is not None:
                x = self._augmented(x, part, len(rows), draw, share)  # noqa: PLW2901
            yield Batch(x=x, rows=part, num_windows=len(rows))

    def _augmented(
        self, x: torch.Tensor, rows: torch.Tensor, num: int, draw: torch.Generator, share: Share
    ) -> torch.Tensor:
        assert self._fresh is not None
        changed = self._fresh.augment_batch(x, draw, num_drawn=num, take=share.take)
        copy = (rows >= self.num_windows)[:, None, None]
        return normalise_batch(torch.where(copy, changed, x))

    def _hold(self) -> torch.Tensor:
        parts = []
        for i in range(0, len(self._source), _CHUNK):
            X = check_windows(self._source[i : i + _CHUNK])
            parts.append(np.array(X) if self._fresh else normalise(X))
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    def _stored(self, rows: torch.Tensor) -> torch.Tensor:
        """Return where the windows of `rows`, or those they are copies of, are kept."""
        return rows % self.num_windows if self._fresh else rows

    def _gathered(self, parts: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        assert self._held is not None
        for rows in parts:
            yield self._held[self._stored(rows)]

    def _streamed(self, parts: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Read one batch ahead in a thread, through two buffers (pinned for a GPU)."""
        pinned = self.device == "cuda"
        wanted = [self._stored(p).cpu().numpy() for p in parts]
        shape = (max(len(w) for w in wanted), self.window_bars, 4)
        buffers = [torch.empty(shape, pin_memory=pinned) for _ in range(2)]
        copied = [torch.cuda.Event() if pinned else None for _ in range(2)]

        def read(number: int) -> torch.Tensor:
            event = copied[number % 2]
            if event is not None and number >= 2:
                event.synchronize()  # the copy out of this buffer, two batches ago
            X = check_windows(self._source[wanted[number]])
            target = buffers[number % 2][: len(X)]
            target.numpy()[:] = X if self._fresh else normalise(X)
            return target

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read, 0)
            for number in range(len(wanted)):
                x = ahead.result().to(self.device, non_blocking=True)
                event = copied[number % 2]
                if event is not None:
                    event.record()
                else:
                    x = x.clone()
                if number + 1 < len(wanted):
                    ahead = reader.submit(read, number + 1)
                yield x


def epoch_order(
    config: CorpusConfig, rows: torch.Tensor, window_bars: int, draw: torch.Generator
) -> torch.Tensor:
    """Return the rows an epoch trains on, in order, drawn on the rows' device."""
    num = len(rows)
    count = epoch_length(config, num, window_bars)
    if config.sampling == "all":
        return rows[torch.randperm(num, generator=draw, device=rows.device)[:count]]
    offset = torch.rand(count, generator=draw, device=rows.device, dtype=torch.float64)
    stretch = torch.arange(count, device=rows.device, dtype=torch.float64)
    picked = ((stretch + offset) * (num / count)).long().clamp(max=num - 1)
    return rows[picked[torch.randperm(count, generator=draw, device=rows.device)]]


def epoch_length(config: CorpusConfig, num_rows: int, window_bars: int) -> int:
    """Return how many windows an epoch has."""
    usual = num_rows if config.sampling == "all" else -(-num_rows // window_bars)
    return min(config.windows_per_epoch or usual, num_rows)


def split_by_time(
    num_windows: int, window_bars: int, val_split: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold back the latest share of the windows.

    Windows are taken to be one bar apart at least, so the `window_bars` - 1 before the held-out
    ones are left out: they could share bars with them.
    """
    num_val = max(1, round(val_split * num_windows))
    border = num_windows - num_val
    train = np.arange(max(0, border - (window_bars - 1)), dtype=np.int64)
    if not len(train):
        raise ConfigError(
            f"{num_windows} windows of {window_bars} bars leave none to train on",
            remedy="Build a larger corpus or lower val_split",
        )
    return train, np.arange(border, num_windows, dtype=np.int64)
