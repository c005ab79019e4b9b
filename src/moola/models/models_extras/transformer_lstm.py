"""Transformer-LSTM: an LSTM gives each bar its past, self-attention then looks at all bars.

The order of the parts follows the Temporal Fusion Transformer (Lim et al., 2021,
arXiv:1912.09363): local processing by an LSTM with a gated shortcut, then interpretable-style
multi-head attention (Vaswani et al., 2017) over its states.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from moola.models.base import estimator
from moola.models.models_extras.attention import AttentionClassifier, transformer


class TransformerLSTM(nn.Module):
    """LSTM, gated shortcut, transformer layers, mean over time, classifier.

    Parameters
    ----------
    num_classes, input_dim
        K outputs; channels of a bar.
    width
        LSTM units, and width of the attention.
    num_heads, num_layers, dropout
        Of the transformer.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_dim: int = 4,
        width: int = 32,
        num_heads: int = 2,
        num_layers: int = 1,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.shortcut = nn.Linear(input_dim, width)
        self.lstm = nn.LSTM(input_dim, width, batch_first=True)
        self.gate = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.layers = transformer(
            width, num_heads=num_heads, num_layers=num_layers, dropout=dropout
        )
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K); the features are not looked at."""
        states_NTH, _ = self.lstm(x_NTC)
        gated = functional.glu(self.gate(states_NTH), dim=-1)
        states_NTH = self.norm(self.shortcut(x_NTC) + gated)
        return self.classifier(self.layers(states_NTH).mean(dim=1))


@estimator
class TransformerLSTMModel(AttentionClassifier):
    """Scikit-learn estimator around :class:`TransformerLSTM`, with one layer as default."""

    model_name = "moola.models.models_extras.transformer_lstm.TransformerLSTMModel"
    net_type = TransformerLSTM

    num_layers: int = 1
