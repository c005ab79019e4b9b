"""The LSTM encoder that nets and pretraining share, so that one loads into the other."""

from __future__ import annotations

from torch import nn


def lstm_encoder(
    input_dim: int,
    hidden_size: int,
    num_layers: int,
    *,
    dropout: float,
    bidirectional: bool = True,
) -> nn.LSTM:
    """Return an LSTM over (n, T, input_dim); dropout acts between layers, so one has none."""
    return nn.LSTM(
        input_dim,
        hidden_size,
        num_layers,
        batch_first=True,
        bidirectional=bidirectional,
        dropout=dropout if num_layers > 1 else 0.0,
    )
