"""A net of one's own whose encoder has batch norms, for the tests of frozen buffers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from finetune_kit import CORPUS, windows
from torch import nn

from moola.models.estimator import TorchWindowClassifier
from moola.models.fitting.callbacks import Callback
from moola.models.fitting.resume import StateFile
from moola.models.weights.checkpoint import save_checkpoint
from moola.models.weights.freeze import FreezeCallback, FreezeSchedule, Phase
from moola.training.forensics import WeightEvolution

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class ConvBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv1d(num_in, num_out, 3, padding=1)
        self.norm = nn.BatchNorm1d(num_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NDT: torch.Tensor) -> torch.Tensor:
        return self.dropout(torch.relu(self.norm(self.conv(x_NDT))))


class ConvEncoder(nn.Module):
    """Blocks of convolution, batch norm and dropout; a buffer that no checkpoint holds."""

    def __init__(self, hidden: int, num_layers: int, dropout: float):
        super().__init__()
        widths = [4, *[hidden] * num_layers]
        self.output_dim = hidden
        self.blocks = nn.Sequential(*(ConvBlock(a, b, dropout) for a, b in pairwise(widths)))
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x_NTC: torch.Tensor) -> torch.Tensor:
        return self.blocks(x_NTC.transpose(1, 2)).transpose(1, 2) * self.scale


class ConvNet(nn.Module):
    def __init__(self, num_classes: int, hidden: int, num_layers: int, dropout: float):
        super().__init__()
        self.encoder = ConvEncoder(hidden, num_layers, dropout)
        self.classifier = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, num_classes))

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.encoder(x_NTC), features_NF)

    def forward_head(self, states_NTD: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        return self.classifier(states_NTD.mean(dim=1))


class ConvModel(TorchWindowClassifier):
    model_name = "conv"

    def __init__(
        self, *, hidden_size: int = 8, num_layers: int = 2, dropout: float = 0.3, **training: Any
    ):
        super().__init__(**training)
        self.hidden_size, self.num_layers, self.dropout = hidden_size, num_layers, dropout

    @property
    def encoder_layers(self) -> tuple[tuple[str, ...], ...]:
        return tuple((f"encoder.blocks.{i}.*",) for i in range(self.num_layers))

    def build_net(self, num_classes: int) -> nn.Module:
        return ConvNet(num_classes, self.hidden_size, self.num_layers, self.dropout)


def conv_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ConvModel().build_net(2)


def encoder_state(hidden: int = 8, num_layers: int = 2) -> dict[str, torch.Tensor]:
    """Tensors of an encoder that has seen windows, so that its statistics are no defaults."""
    torch.manual_seed(5)
    encoder = ConvEncoder(hidden, num_layers, 0.0)
    for seed in range(3):
        encoder(torch.from_numpy(windows(seed=seed)[0]) / 100)
    return {f"encoder.{k}": v.detach().clone() for k, v in encoder.state_dict().items()}


def write_conv_encoder(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_checkpoint(folder, tensors, {"corpus": CORPUS})
    return folder


def own_schedule(*frozen: str, until: int | None = None) -> FreezeSchedule:
    """Freeze patterns for the whole training, or for the first epochs."""
    phases = [Phase(first_epoch=0, frozen=frozen)]
    if until is not None:
        phases.append(Phase(first_epoch=until, frozen=()))
    return FreezeSchedule(name="own", phases=tuple(phases))


class Build(Callback):
    """Change the fresh net before anything else looks at it."""

    def __init__(self, change: Any):
        self.change = change

    def on_fit_begin(self, state: Any) -> None:
        self.change(state.net)
        del state.optimizer.param_groups[:]
        state.optimizer.add_param_group({"params": list(state.net.parameters())})


def fit_conv(
    schedule: FreezeSchedule,
    *more: Callback,
    build: Any = None,
    after: tuple[Callback, ...] = (),
    freezer: type[FreezeCallback] = FreezeCallback,
    file: StateFile | None = None,
    **params: Any,
) -> tuple[ConvModel, WeightEvolution]:
    """Train for three epochs; return the estimator and its weight evolution."""
    X, y = windows()
    evolution = WeightEvolution(schedule)
    first = [Build(build)] if build else []
    model = ConvModel(
        **{"n_epochs": 3, "batch_size": 8, "learning_rate": 0.01, "cache_frozen": False, **params}
    )
    callbacks = [*first, freezer(schedule), *more, evolution, *after]
    model.fit(X, y, callbacks=callbacks, state_file=file)
    return model, evolution


def moved(evolution: WeightEvolution, name: str) -> list[bool]:
    """Whether a tensor moved, epoch by epoch."""
    return [row["moved_in_epoch"] for row in evolution.rows if row["tensor"] == name]
