"""Small nets, checkpoints and windows for the fine-tuning tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_kit import walk
from safetensors.torch import save_file
from torch import nn

from moola.config.training import FinetuneConfig
from moola.models.enhanced_simple_lstm import EnhancedSimpleLSTM, EnhancedSimpleLSTMModel
from moola.models.fitting.callbacks import Callback
from moola.models.weights.checkpoint import read_checkpoint, save_checkpoint
from moola.models.weights.freeze import FreezeSchedule
from moola.training.finetune import FinetuneResult, finetune
from moola.training.forensics import WeightEvolution

HIDDEN = 4
TWO_PHASE = {"unfreeze_after": 2, "num_layers": 2}
CORPUS = {
    "name": "unlabeled_windows/v1",
    "sha256": "0" * 64,
    "source": "walk",
    "source_sha256": "0" * 64,
    "first_bar": "2019-01-01T00:00:00.000000",
    "last_bar": "2019-06-01T00:00:00.000000",
}


class OneWay(nn.Module):
    """A unidirectional LSTM under the name `lstm`, with a linear head."""

    def __init__(self, hidden: int = HIDDEN):
        super().__init__()
        self.lstm = nn.LSTM(4, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, 2)


def net(*, num_layers: int = 2, hidden: int = HIDDEN, seed: int = 0, **params: Any) -> nn.Module:
    torch.manual_seed(seed)
    return EnhancedSimpleLSTM(
        num_classes=2, hidden_size=hidden, num_layers=num_layers, dropout=0.0, **params
    )


def encoder_tensors(
    *, num_layers: int = 2, hidden: int = HIDDEN, seed: int = 7
) -> dict[str, torch.Tensor]:
    """Tensors of a bidirectional LSTM by their bare names, 8 a layer."""
    torch.manual_seed(seed)
    lstm = nn.LSTM(4, hidden, num_layers, batch_first=True, bidirectional=True)
    return {k: v.detach().clone() for k, v in lstm.state_dict().items()}


def prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + k: v for k, v in tensors.items()}


def write_form(path: Path, form: str, tensors: dict[str, Any]) -> Path:
    """Write tensors in one of the forms a checkpoint comes in; return its path."""
    if form == "safetensors":
        target = path.with_suffix(".safetensors")
        save_file(tensors, target)
    elif form == "folder":
        target = path
        target.mkdir()
        save_file(tensors, target / "model.safetensors")
    else:
        target = path.with_suffix(".pt")
        torch.save(tensors if form == "direct" else {form: tensors, "epoch": 3}, target)
    return target


def bits(model: nn.Module) -> dict[str, tuple[bytes, bool]]:
    """Every parameter's bytes and requires_grad."""
    return {n: (p.detach().numpy().tobytes(), p.requires_grad) for n, p in model.named_parameters()}


def windows(num: int = 24, *, bars: int = 12, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a random walk, cut side by side, and labels 0 1 0 1 ..."""
    ohlc = walk(num * bars, seed=seed).astype(np.float32)
    ohlc[:, 1] = ohlc.max(axis=1)
    ohlc[:, 2] = ohlc.min(axis=1)
    return ohlc.reshape(num, bars, 4), np.arange(num) % 2


def estimator(**params: Any) -> EnhancedSimpleLSTMModel:
    defaults: dict[str, Any] = {
        "hidden_size": 8,
        "num_layers": 2,
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate": 0.01,
        "dropout": 0.1,
        "feature_mlp_hidden": (8,),
    }
    return EnhancedSimpleLSTMModel(**{**defaults, **params})


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def write_encoder(folder: Path, *, num_layers: int = 1, corpus: Any = CORPUS) -> Path:
    """Write an encoder checkpoint of hidden size 32 that states its corpus."""
    tensors = prefixed(encoder_tensors(num_layers=num_layers, hidden=32), "encoder.")
    save_checkpoint(folder, tensors, {"corpus": corpus} if corpus else {})
    return folder


def config(encoder: Path | None = None, **changes: Any) -> FinetuneConfig:
    """Four short epochs, encoder frozen for two if there is one."""
    values: dict[str, Any] = {
        "preset": "compact",
        "pretrained_encoder": str(encoder) if encoder else None,
        "unfreeze_after": 2,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "patience": 0,
        "device": "cpu",
    }
    return FinetuneConfig(**{**values, **changes})


def run(made: FinetuneConfig, **options: Any) -> FinetuneResult:
    """Fine-tune on the small windows."""
    X, y = windows()
    return finetune(made, X, y, device="cpu", **options)


def encoder_change(result: FinetuneResult, encoder: Path) -> float:
    """Largest distance of the trained encoder from the checkpoint."""
    own = result.model.net_.state_dict()
    return max(float((own[k] - v).abs().max()) for k, v in read_checkpoint(encoder).tensors.items())


def fit(schedule: FreezeSchedule, freezer: Callback, *more: Callback, **params: Any) -> Any:
    """Train for four epochs under a schedule; return the estimator and its weight evolution."""
    X, y = windows()
    evolution = WeightEvolution(schedule)
    model = estimator(**{"n_epochs": 4, **params})
    model.fit(X, y, callbacks=[freezer, *more, evolution])
    return model, evolution
