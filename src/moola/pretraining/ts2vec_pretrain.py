"""Contrastive pretraining of the TS2Vec encoder on unlabelled windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moola.config.pretraining import TS2VecConfig
from moola.errors import CheckpointError, ConfigError
from moola.models.checkpoint import read_checkpoint
from moola.models.ts2vec import TS2VecEncoder
from moola.pretraining.contrast import hierarchical_loss, two_views
from moola.pretraining.corpus import Corpus, epoch_length, epoch_order
from moola.pretraining.distributed import Share
from moola.pretraining.session import PretrainResult, Session, run_session
from moola.training.device import use_bf16

ENCODER_KIND = "ts2vec"
_MAX_VALIDATION = 512


class TS2VecModel(nn.Module):
    """The encoder under the name that strict loading knows."""

    def __init__(self, **shape: float):
        super().__init__()
        self.encoder = TS2VecEncoder(**shape)  # type: ignore[arg-type]


def pretrain_ts2vec(
    X_NTC: NDArray, config: TS2VecConfig, session: Session
) -> PretrainResult[TS2VecModel]:
    """Train on windows in price units, in time order; raises what ``run_session`` raises."""
    if not session.share.alone:
        raise ConfigError(
            f"TS2Vec was started in {session.share.size} processes",
            limit="1: its loss contrasts all windows of a batch, parts of it would be another loss",
            remedy="Start it without torchrun",
        )
    corpus = Corpus(X_NTC, device=session.device, max_resident_mb=config.max_resident_mb)

    def make(train: NDArray[np.int64], val: NDArray[np.int64]) -> _Contrastive:
        model = TS2VecModel(input_dim=4, **config.encoder_shape())
        return _Contrastive(model.to(session.device), config, corpus, train, val)

    return run_session(make, X_NTC, config, session)


class _Contrastive:
    """The objective; what is held out is measured on the same crops every epoch."""

    parts = ("loss",)
    monitor = "val_loss"

    def __init__(
        self,
        model: TS2VecModel,
        config: TS2VecConfig,
        corpus: Corpus,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
    ):
        self.model, self.config, self.corpus = model, config, corpus
        self._rows = corpus.rows(train)
        spread = np.unique(np.linspace(0, len(val) - 1, min(len(val), _MAX_VALIDATION)).astype(int))
        self._x_val = corpus.windows(torch.from_numpy(val[spread]).to(corpus.device))
        self._bf16 = use_bf16(config.amp, corpus.device)
        self._num_windows = epoch_length(config, len(self._rows), corpus.window_bars)

    def num_batches(self) -> int:
        return -(-self._num_windows // self.config.batch_size)

    def losses(self, draw: torch.Generator, share: Share) -> Iterator[tuple[torch.Tensor, int]]:
        order = epoch_order(self.config, self._rows, self.corpus.window_bars, draw)
        crops = torch.Generator().manual_seed(draw.initial_seed())
        for batch in self.corpus.batches(order, self.config.batch_size, draw, share):
            yield self._loss(batch.x, crops).reshape(1), batch.num_windows

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        crops = torch.Generator().manual_seed(self.config.seed + 1)
        parts = self._x_val.split(self.config.batch_size)
        total = sum(self._loss(x, crops) * len(x) for x in parts)
        return {"val_loss": float(total) / len(self._x_val)}

    def _loss(self, x: torch.Tensor, crops: torch.Generator) -> torch.Tensor:
        with torch.autocast(self.corpus.device, torch.bfloat16, enabled=self._bf16):
            first, second = two_views(self.model.encoder, x, crops)
        return hierarchical_loss(
            first.float(), second.float(), instance_weight=self.config.instance_weight
        )


def load_ts2vec(folder: Path, *, device: str = "cpu") -> TS2VecEncoder:
    """Read back the encoder of a checkpoint that a TS2Vec pretraining wrote."""
    checkpoint = read_checkpoint(folder)
    if checkpoint.config.get("kind") != ENCODER_KIND:
        raise CheckpointError(f"{folder} is not a TS2Vec encoder", limit=f"kind {ENCODER_KIND}")
    model = TS2VecModel(input_dim=4, **checkpoint.config["shape"])
    model.load_state_dict(dict(checkpoint.tensors))
    return model.encoder.to(device).eval()
