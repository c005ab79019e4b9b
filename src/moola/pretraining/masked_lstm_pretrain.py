"""Masked pretraining of the BiLSTM encoder: hide bars, reconstruct them, keep the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moola.config.base import check_count
from moola.config.pretraining import PretrainConfig
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.fitting.loop import OnEpoch
from moola.pretraining.corpus import Corpus
from moola.pretraining.data_augmentation import TimeSeriesAugmenter
from moola.pretraining.distributed import Share
from moola.pretraining.masking import draw_mask, num_hidden
from moola.pretraining.objective import CorpusObjective
from moola.pretraining.session import (
    PretrainResult,
    Session,
    about_pretrained,
    export_pt,
    run_session,
)

ENCODER_KIND = "bilstm_masked_autoencoder"
_EVALUATE_BATCH = 512


class MaskedLSTMPretrainer:
    """Pretrain a masked BiLSTM autoencoder.

    AdamW, cosine rate to 1e-5, gradients clipped at norm 1, early stopping on the masked error of
    the latest windows, bfloat16 autocast where the hardware has it.

    Parameters
    ----------
    config
        Shape, objective and training options; None: the defaults.
    device
        ``cpu`` or ``cuda``, resolved.
    input_dim
        Channels of a bar: 4.
    **options
        Fields of the configuration to set, such as ``hidden_dim=64``.
    """

    def __init__(
        self,
        config: PretrainConfig | None = None,
        *,
        device: str = "cpu",
        input_dim: int = 4,
        **options: Any,
    ):
        check_count("input_dim", input_dim, low=4, high=4)
        values = (config or PretrainConfig()).to_dict()
        self.config = PretrainConfig.from_mapping({**values, **options})
        self.device = device

    def pretrain(
        self,
        X: NDArray,
        *,
        n_epochs: int | None = None,
        save_path: Path | None = None,
        on_epoch: OnEpoch | None = None,
        state_path: Path | None = None,
        resume: bool = False,
    ) -> PretrainResult[BiLSTMMaskedAutoencoder]:
        """Train on windows in price units, shape (n, T, 4), in time order.

        Raises what ``run_session`` raises.

        Parameters
        ----------
        X
            Windows.
        n_epochs
            In place of the configuration's.
        save_path
            File that gets the model as a ``.pt``. It names no corpus, which only
            `moola pretrain-bilstm` knows, so that `moola train` refuses it; an estimator's
            ``fit(pretrained_encoder_path=...)`` takes it.
        on_epoch
            Called with each epoch's history row and the number of epochs.
        state_path, resume
            File that holds the state after every epoch, and whether to go on from it.

        Returns
        -------
        PretrainResult
            The autoencoder with the weights of its best epoch.
        """
        config = replace(self.config, epochs=n_epochs) if n_epochs else self.config
        session = Session(
            device=self.device, on_epoch=on_epoch, state_path=state_path, resume=resume
        )
        result = pretrain_masked(X, config, session)
        if save_path is not None:
            export_pt(save_path, result.model, about_pretrained(ENCODER_KIND, result, config))
        return result


def pretrain_masked(
    X_NTC: NDArray, config: PretrainConfig, session: Session
) -> PretrainResult[BiLSTMMaskedAutoencoder]:
    """Train on windows in price units, in time order.

    Raises what ``run_session`` raises, and ConfigError if the mask would hide whole windows.
    """
    num_hidden(
        config.mask_strategy,
        X_NTC.shape[1],
        ratio=config.mask_ratio,
        patch_size=config.patch_size,
    )
    corpus = _corpus(X_NTC, config, session.device)

    def make(train: NDArray[np.int64], val: NDArray[np.int64]) -> _Masked:
        model = BiLSTMMaskedAutoencoder(**config.encoder_shape()).to(session.device)
        return _Masked(model, config, corpus, train, val, share=session.share)

    return run_session(make, X_NTC, config, session)


class _Masked(CorpusObjective[BiLSTMMaskedAutoencoder, PretrainConfig]):
    """The objective: mean squared error on masked bars, and the term against collapse."""

    parts = ("loss", "recon")
    monitor = "val_recon"

    def __init__(
        self,
        model: BiLSTMMaskedAutoencoder,
        config: PretrainConfig,
        corpus: Corpus,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        *,
        share: Share,
    ):
        super().__init__(model, config, corpus, train, val, share=share)
        self._total = None if share.alone else share.total
        fixed = torch.Generator(device=corpus.device).manual_seed(config.seed + 1)
        self._mask_val = self._mask(len(val), fixed)

    def losses(self, draw: torch.Generator, share: Share) -> Iterator[tuple[torch.Tensor, int]]:
        for batch in self._batches(draw, share):
            mask = share.take(self._mask(batch.num_windows, draw))
            yield self._loss(batch.x, mask), batch.num_windows

    def _loss(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return loss and error; here, so that no activation outlives the backward pass."""
        with self._autocast():
            reconstruction, states = self._called(x, mask)
        return torch.stack(
            self.model.compute_loss(
                reconstruction.float(),
                x,
                mask,
                states.float(),
                latent_weight=self.config.latent_weight,
                total=self._total,
            )
        )

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        x, mask = self._x_val, self._mask_val
        sums = torch.zeros(2, device=x.device)
        for begin in range(0, len(x), _EVALUATE_BATCH):
            part = slice(begin, begin + _EVALUATE_BATCH)
            reconstruction, states = self.model(x[part], mask[part])
            loss, error = self.model.compute_loss(
                reconstruction, x[part], mask[part], states, latent_weight=self.config.latent_weight
            )
            sums += torch.stack([loss, error]) * len(x[part])
        loss_value, error_value = (sums / len(x)).tolist()
        return {"val_recon": error_value, "val_loss": loss_value}

    def _mask(self, num_windows: int, draw: torch.Generator) -> torch.Tensor:
        return draw_mask(
            self.config.mask_strategy,
            num_windows,
            self.corpus.window_bars,
            ratio=self.config.mask_ratio,
            patch_size=self.config.patch_size,
            generator=draw,
        )


def _corpus(X: NDArray, config: PretrainConfig, device: str) -> Corpus:
    return Corpus(
        X,
        device=device,
        max_resident_mb=config.max_resident_mb,
        augmenter=TimeSeriesAugmenter() if config.augment else None,
        num_augmentations=config.num_augmentations if config.augment else 0,
        materialise_seed=config.seed if config.materialise_augmented else None,
    )
