"""CNN-Transformer: a convolutional stem shortens the window, self-attention reads what is left.

The stem in the place of patch embedding follows Xiao et al. (2021, "Early Convolutions Help
Transformers See Better", arXiv:2106.14881), in one dimension; the layers are those of Vaswani et
al. (2017).
"""

from __future__ import annotations

import torch
from torch import nn

from moola.models.models_extras.attention import (
    AttentionClassifier,
    sinusoidal_positions,
    transformer,
)


class CNNTransformer(nn.Module):
    """Two strided convolutions, positions, transformer layers, mean over time, classifier.

    Parameters
    ----------
    num_classes, input_dim
        K outputs; channels of a bar.
    width
        Channels of the stem, and width of the attention.
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
        num_layers: int = 2,
        dropout: float = 0.1,
    ):
        super().__init__()
        half = max(1, width // 2)
        self.stem = nn.Sequential(
            nn.Conv1d(input_dim, half, 5, stride=2, padding=2),
            nn.BatchNorm1d(half),
            nn.ReLU(),
            nn.Conv1d(half, width, 3, stride=2, padding=1),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
        )
        self.layers = transformer(
            width, num_heads=num_heads, num_layers=num_layers, dropout=dropout
        )
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K); the features are not looked at."""
        states_NTD = self.stem(x_NTC.transpose(1, 2)).transpose(1, 2)
        code = sinusoidal_positions(*states_NTD.shape[1:]).to(states_NTD)
        return self.classifier(self.layers(states_NTD + code).mean(dim=1))


class CNNTransformerModel(AttentionClassifier):
    """Scikit-learn estimator around :class:`CNNTransformer`."""

    model_name = "moola.models.models_extras.cnn_transformer.CNNTransformerModel"
    net_type = CNNTransformer
