"""EnhancedSimpleLSTM, the primary model: OHLC through BiLSTM and attention, 20 features beside."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from moola.errors import ConfigError
from moola.models.base import estimator
from moola.models.encoder import lstm_encoder
from moola.models.estimator import TorchWindowClassifier
from moola.models.fitting.transfer import FromEncoder

PRESETS: dict[str, dict[str, int]] = {
    "matched": {"hidden_size": 128, "num_layers": 2},  # takes the default encoder whole
    "compact": {"hidden_size": 32, "num_layers": 1},
}


class EnhancedSimpleLSTM(nn.Module):
    """The network.

    The BiLSTM's last state attends to all steps (multi-head attention); state and attended summary
    are added, joined with the features' MLP and classified.

    Parameters
    ----------
    num_classes
        K, outputs.
    input_dim, num_features
        Channels of a bar and features of a window; without features there is no MLP.
    hidden_size, num_layers
        LSTM units per direction, and layers.
    num_heads
        Attention heads; must divide ``2 * hidden_size``.
    feature_mlp_hidden
        Widths of the features' MLP.
    dropout
        In the attention, the MLP, the classifier and between LSTM layers.

    Raises
    ------
    ConfigError
        If `num_heads` does not divide the width.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_dim: int = 4,
        num_features: int = 20,
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.1,
        feature_mlp_hidden: tuple[int, ...] = (64, 32),
    ):
        super().__init__()
        width = 2 * hidden_size
        if width % num_heads:
            raise ConfigError(f"num_heads is {num_heads}", limit=f"a divisor of {width}")
        self.encoder = lstm_encoder(input_dim, hidden_size, num_layers, dropout=dropout)
        self.attention = nn.MultiheadAttention(width, num_heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        layers: list[nn.Module] = []
        last = num_features
        for hidden in feature_mlp_hidden if num_features else ():
            layers += [nn.Linear(last, hidden), nn.ReLU(), nn.Dropout(dropout)]
            last = hidden
        self.feature_mlp = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(width + last, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K)."""
        states_NTH, _ = self.encoder(x_NTC)
        return self.forward_head(states_NTH, features_NF)

    def forward_head(self, states_NTH: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits from the encoder's states, shape (n, T, 2 * hidden_size)."""
        half = states_NTH.shape[2] // 2
        ends_NH = torch.cat([states_NTH[:, -1, :half], states_NTH[:, 0, half:]], dim=1)
        summary = self.norm(ends_NH + self._attend(ends_NH, states_NTH))
        return self.classifier(torch.cat([summary, self.feature_mlp(features_NF)], dim=1))

    def _attend(self, query_NH: torch.Tensor, states_NTH: torch.Tensor) -> torch.Tensor:
        """Return the multi-head attention of one query a window, shape (n, 2 * hidden_size).

        Equal to ``self.attention(query, states, states)``, but with one query there is no need to
        project every step: q (W_k h + b_k) is (W_k^T q) h plus a constant that the softmax drops,
        and the sum of a_t (W_v h_t + b_v) is W_v applied to the sum of a_t h_t.
        """
        attention = self.attention
        heads, width = attention.num_heads, attention.embed_dim
        size = width // heads
        w_q, w_k, w_v = attention.in_proj_weight.view(3, width, width)
        b_q, _, b_v = attention.in_proj_bias.view(3, width)
        query = functional.linear(query_NH, w_q, b_q).view(-1, heads, size) * size**-0.5
        keys = torch.einsum("nad,adh->nah", query, w_k.view(heads, size, width))
        weights = torch.softmax(keys @ states_NTH.transpose(1, 2), dim=-1).to(states_NTH.dtype)
        weights = functional.dropout(weights, attention.dropout, attention.training)
        values = torch.einsum("nah,adh->nad", weights @ states_NTH, w_v.view(heads, size, width))
        values = values + weights.sum(dim=-1, keepdim=True) * b_v.view(heads, size)
        return attention.out_proj(values.reshape(-1, width))


@estimator
class EnhancedSimpleLSTMModel(FromEncoder, TorchWindowClassifier):
    """Scikit-learn estimator around :class:`EnhancedSimpleLSTM`.

    See :class:`~moola.models.estimator.TorchWindowClassifier` for the training parameters.
    """

    model_name = "enhanced_simple_lstm"

    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.1
    feature_mlp_hidden: tuple[int, ...] = (64, 32)

    @classmethod
    def from_preset(cls, preset: str, **params: Any) -> EnhancedSimpleLSTMModel:
        """Return the model in the size of a preset: ``matched`` or ``compact``."""
        if preset not in PRESETS:
            raise ConfigError(f"preset is {preset!r}", limit=f"one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[preset], **params})

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        return EnhancedSimpleLSTM(
            num_classes=num_classes,
            **self.net_inputs,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            dropout=self.dropout,
            feature_mlp_hidden=tuple(self.feature_mlp_hidden),
        )
