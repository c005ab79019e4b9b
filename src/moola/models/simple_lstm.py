"""SimpleLSTM, the baseline: one direction, OHLC alone, the smallest net there is."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from moola.models.base import estimator
from moola.models.encoder import lstm_encoder
from moola.models.estimator import TorchWindowClassifier
from moola.models.fitting.transfer import FromEncoder


class SimpleLSTM(nn.Module):
    """The network: a unidirectional LSTM whose last state is classified.

    Parameters
    ----------
    num_classes
        K, outputs.
    input_dim
        Channels of a bar.
    hidden_size, num_layers
        LSTM units, and layers.
    dropout
        Between layers and before the classifier.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_dim: int = 4,
        hidden_size: int = 32,
        num_layers: int = 1,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.encoder = lstm_encoder(
            input_dim, hidden_size, num_layers, dropout=dropout, bidirectional=False
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden_size, num_classes))

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K); the features are not looked at."""
        states_NTH, _ = self.encoder(x_NTC)
        return self.forward_head(states_NTH, features_NF)

    def forward_head(self, states_NTH: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits from the encoder's states, shape (n, T, hidden_size)."""
        return self.classifier(states_NTH[:, -1])


@estimator
class SimpleLSTMModel(FromEncoder, TorchWindowClassifier):
    """Scikit-learn estimator around :class:`SimpleLSTM`.

    Takes the forward half of the first layer of any BiLSTM of its hidden size; the strict loader
    reports the reverse direction and the layers above as ignored. See
    :class:`~moola.models.estimator.TorchWindowClassifier` for the training parameters.
    """

    model_name = "simple_lstm"
    bidirectional: ClassVar[bool] = False

    hidden_size: int = 32
    num_layers: int = 1
    dropout: float = 0.1

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        return SimpleLSTM(
            num_classes=num_classes,
            input_dim=self.net_inputs["input_dim"],
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            dropout=self.dropout,
        )
