"""Masked pretraining of the BiLSTM encoder: windows on the device whole, batches gathered there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moola.config.training import PretrainConfig
from moola.data.audit import CorpusClaim
from moola.data.windows import check_windows, normalise
from moola.errors import CheckpointError, ConfigError, ProofError
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.checkpoint import read_checkpoint, save_checkpoint
from moola.pretraining.masking import draw_mask

ENCODER_KIND = "bilstm_masked_autoencoder"
_MIN_LEARNING_RATE = 1e-5


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """The trained autoencoder with its history.

    `val_rows` are the windows held back, the latest in time; no window of training shares a bar
    with them. `kept_epoch` counts from 0.
    """

    model: BiLSTMMaskedAutoencoder
    history: tuple[dict[str, float], ...]
    kept_epoch: int
    train_rows: NDArray[np.int64]
    val_rows: NDArray[np.int64]


class MaskedLSTMPretrainer:
    """Pretrain a masked BiLSTM autoencoder.

    AdamW, cosine rate to 1e-5, gradients clipped at norm 1, early stopping on the masked error of
    the latest windows, bfloat16 autocast on CUDA.

    Parameters
    ----------
    config
        Shape, objective and training options.
    device
        ``cpu`` or ``cuda``, resolved.
    """

    def __init__(self, config: PretrainConfig, *, device: str):
        self.config = config
        self.device = device

    def pretrain(
        self, X: NDArray, *, on_epoch: Callable[[dict[str, float], int], None] | None = None
    ) -> PretrainResult:
        """Train on windows in price units, shape (n, T, 4), in time order.

        Raises
        ------
        ConfigError
            If too few windows are left beside the held-out ones.
        ProofError
            If the loss becomes NaN.
        """
        X = check_windows(X)
        train, val = split_by_time(len(X), X.shape[1], self.config.val_split)
        x = torch.from_numpy(normalise(X)).to(self.device)
        devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.config.seed)
            model = BiLSTMMaskedAutoencoder(input_dim=4, **self.config.encoder_shape())
            model.to(self.device)
            history, kept = self._train(model, x, train, val, on_epoch)
        model.eval()
        return PretrainResult(
            model=model, history=tuple(history), kept_epoch=kept, train_rows=train, val_rows=val
        )

    def _train(
        self,
        model: BiLSTMMaskedAutoencoder,
        x: torch.Tensor,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        on_epoch: Callable[[dict[str, float], int], None] | None,
    ) -> tuple[list[dict[str, float]], int]:
        config = self.config
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=config.epochs, eta_min=min(_MIN_LEARNING_RATE, config.learning_rate)
        )
        draw = torch.Generator(device=self.device).manual_seed(config.seed)
        x_val = x[torch.from_numpy(val).to(x.device)]
        mask_val = self._mask(len(val), x.shape[1], config.seed + 1)
        rows = torch.from_numpy(train).to(x.device)
        history: list[dict[str, float]] = []
        best, best_weights, kept, since = math.inf, copy.deepcopy(model.state_dict()), 0, 0
        for epoch in range(config.epochs):
            row = {"epoch": epoch, "learning_rate": optimizer.param_groups[0]["lr"]}
            row |= self._train_epoch(model, x, rows, optimizer, draw)
            row["val_loss"], row["val_recon"] = self._evaluate(model, x_val, mask_val)
            scheduler.step()
            history.append(row)
            if not (math.isfinite(row["train_loss"]) and math.isfinite(row["val_recon"])):
                raise ProofError(
                    f"the pretraining loss is not a number in epoch {epoch + 1}",
                    remedy=f"Lower the learning rate ({config.learning_rate:g})",
                )
            if on_epoch is not None:
                on_epoch(row, config.epochs)
            if row["val_recon"] < best:
                best, kept, since = row["val_recon"], epoch, 0
                best_weights = copy.deepcopy(model.state_dict())
            elif (since := since + 1) >= config.patience:
                break
        model.load_state_dict(best_weights)
        return history, kept

    def _train_epoch(
        self,
        model: BiLSTMMaskedAutoencoder,
        x: torch.Tensor,
        rows: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        draw: torch.Generator,
    ) -> dict[str, float]:
        config = self.config
        model.train()
        order = torch.randperm(len(rows), generator=draw, device=x.device)
        order = rows[order[: config.windows_per_epoch]]
        totals = torch.zeros(2, device=x.device)
        for batch_rows in order.split(config.batch_size):
            batch = x[batch_rows]
            mask = draw_mask(
                config.mask_strategy,
                len(batch),
                batch.shape[1],
                ratio=config.mask_ratio,
                patch_size=config.patch_size,
                generator=draw,
            )
            with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
                reconstruction, states = model(batch, mask)
            loss, error = model.compute_loss(reconstruction.float(), batch, mask, states.float())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            totals += torch.stack([loss.detach(), error.detach()]) * len(batch)
        train_loss, train_recon = (totals / len(order)).tolist()
        return {"train_loss": train_loss, "train_recon": train_recon}

    @torch.inference_mode()
    def _evaluate(
        self, model: BiLSTMMaskedAutoencoder, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[float, float]:
        model.eval()
        totals = torch.zeros(2, device=x.device)
        for begin in range(0, len(x), self.config.batch_size):
            part = slice(begin, begin + self.config.batch_size)
            reconstruction, states = model(x[part], mask[part])
            loss, error = model.compute_loss(reconstruction, x[part], mask[part], states)
            totals += torch.stack([loss, error]) * len(x[part])
        loss_value, error_value = (totals / len(x)).tolist()
        return loss_value, error_value

    def _mask(self, num_windows: int, num_bars: int, seed: int) -> torch.Tensor:
        return draw_mask(
            self.config.mask_strategy,
            num_windows,
            num_bars,
            ratio=self.config.mask_ratio,
            patch_size=self.config.patch_size,
            generator=torch.Generator(device=self.device).manual_seed(seed),
        )


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


def save_encoder(
    folder: Path, result: PretrainResult, config: PretrainConfig, corpus: CorpusClaim
) -> str:
    """Write the encoder's checkpoint with the statement of what it was trained on.

    Returns
    -------
    SHA-256 of the weights file.
    """
    values: dict[str, Any] = {
        "kind": ENCODER_KIND,
        "shape": config.encoder_shape(),
        "pretraining": config.to_dict(),
        "corpus": corpus.to_dict(),
        "kept_epoch": result.kept_epoch,
    }
    return save_checkpoint(folder, result.model.state_dict(), values)


def load_autoencoder(folder: Path, *, device: str = "cpu") -> BiLSTMMaskedAutoencoder:
    """Read back what ``save_encoder`` wrote, decoder included."""
    checkpoint = read_checkpoint(folder)
    if checkpoint.config.get("kind") != ENCODER_KIND:
        raise CheckpointError(f"{folder} is not a masked autoencoder", limit=f"kind {ENCODER_KIND}")
    model = BiLSTMMaskedAutoencoder(input_dim=4, **checkpoint.config["shape"])
    model.load_state_dict(dict(checkpoint.tensors))
    return model.to(device).eval()
