"""What the objectives of all kinds share: batches of a corpus, windows held out, the precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moola.config.pretraining import CorpusConfig
from moola.models.device import use_bf16
from moola.pretraining.corpus import Batch, Corpus, epoch_length, epoch_order
from moola.pretraining.distributed import Share

Model = TypeVar("Model", bound=nn.Module)
Settings = TypeVar("Settings", bound=CorpusConfig)


class CorpusObjective(Generic[Model, Settings]):
    """Base of the objectives; a subclass adds ``parts``, ``monitor``, ``losses`` and ``evaluate``.

    Parameters
    ----------
    model
        On the corpus's device.
    config
        Of the pretraining.
    corpus
        All windows.
    train, val
        Windows to train on, with their augmented copies, and windows held out, shape (m,).
    share
        This process's part of every batch.

    Raises
    ------
    ConfigError
        If some batch has fewer windows than there are processes.
    """

    def __init__(
        self,
        model: Model,
        config: Settings,
        corpus: Corpus,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        *,
        share: Share,
    ):
        self.model, self.config, self.corpus = model, config, corpus
        self._called: Any = share.wrap(model)
        self._rows = corpus.rows(train)
        self._x_val = corpus.windows(torch.from_numpy(val).to(corpus.device))
        self._bf16 = use_bf16(config.amp, corpus.device)
        self._num_windows = epoch_length(config, len(self._rows), corpus.window_bars)
        share.check_batches(self._num_windows, config.batch_size)

    def num_batches(self) -> int:
        """Return how many batches an epoch has."""
        return -(-self._num_windows // self.config.batch_size)

    def _batches(self, draw: torch.Generator, share: Share) -> Iterator[Batch]:
        order = epoch_order(self.config, self._rows, self.corpus.window_bars, draw)
        return self.corpus.batches(order, self.config.batch_size, draw, share)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.corpus.device, torch.bfloat16, enabled=self._bf16)
