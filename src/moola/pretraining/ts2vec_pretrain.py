"""Contrastive pretraining of the TS2Vec encoder on unlabelled windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moola.config.pretraining import TS2VecConfig
from moola.errors import ConfigError
from moola.models.ts2vec import TS2VecEncoder
from moola.pretraining.contrast import hierarchical_loss, two_views
from moola.pretraining.corpus import Corpus
from moola.pretraining.distributed import Share
from moola.pretraining.objective import CorpusObjective
from moola.pretraining.session import PretrainResult, Session, run_session

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
        model = TS2VecModel(**config.encoder_shape()).to(session.device)
        num_held = min(len(val), _MAX_VALIDATION)
        spread = np.unique(np.linspace(0, len(val) - 1, num_held).astype(int))
        return _Contrastive(model, config, corpus, train, val[spread], share=session.share)

    return run_session(make, X_NTC, config, session)


class _Contrastive(CorpusObjective[TS2VecModel, TS2VecConfig]):
    """The objective; what is held out is measured on the same crops every epoch."""

    parts = ("loss",)
    monitor = "val_loss"

    def losses(self, draw: torch.Generator, share: Share) -> Iterator[tuple[torch.Tensor, int]]:
        crops = torch.Generator().manual_seed(draw.initial_seed())
        for batch in self._batches(draw, share):
            yield self._loss(batch.x, crops).reshape(1), batch.num_windows

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        crops = torch.Generator().manual_seed(self.config.seed + 1)
        parts = self._x_val.split(self.config.batch_size)
        total = sum(self._loss(x, crops) * len(x) for x in parts)
        return {"val_loss": float(total) / len(self._x_val)}

    def _loss(self, x: torch.Tensor, crops: torch.Generator) -> torch.Tensor:
        with self._autocast():
            first, second = two_views(self.model.encoder, x, crops)
        return hierarchical_loss(
            first.float(), second.float(), instance_weight=self.config.instance_weight
        )
