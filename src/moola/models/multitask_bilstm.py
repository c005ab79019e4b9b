"""BiLSTM encoder with three heads a step: direction, swing, candle."""

from __future__ import annotations

import torch
from torch import nn

from moola.models.encoder import lstm_encoder


class MultiTaskBiLSTM(nn.Module):
    """Encoder as the masked autoencoder's, so that it loads into the same models.

    The encoder reads the window from both ends, so what follows a bar is in sight: the tasks
    teach it to read windows, they are no forecast.

    Parameters
    ----------
    input_dim
        Channels of a bar, 4.
    hidden_dim
        LSTM units per direction.
    num_layers, dropout
        Of the LSTM.
    num_classes
        Classes of direction, swing and candle.
    """

    def __init__(
        self,
        *,
        input_dim: int = 4,
        hidden_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.2,
        num_classes: tuple[int, int, int],
    ):
        super().__init__()
        self.encoder = lstm_encoder(input_dim, hidden_dim, num_layers, dropout=dropout)
        direction, swing, candle = num_classes
        self.direction_head = nn.Linear(2 * hidden_dim, direction)
        self.swing_head = nn.Linear(2 * hidden_dim, swing)
        self.candle_head = nn.Linear(2 * hidden_dim, candle)

    def forward(self, x_NTC: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of each task, shape (n, T, classes)."""
        states_NTH, _ = self.encoder(x_NTC)
        return {
            "direction": self.direction_head(states_NTH),
            "swing": self.swing_head(states_NTH),
            "candle": self.candle_head(states_NTH),
        }
