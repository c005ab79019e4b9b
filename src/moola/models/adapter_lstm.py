"""AdapterLSTM, transfer from TS2Vec: its encoder, a narrow adapter a bar, and a small LSTM."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moola.config.base import check_count
from moola.errors import CheckpointError
from moola.models.base import estimator
from moola.models.estimator import TorchWindowClassifier
from moola.models.ts2vec import TS2VecEncoder


class AdapterLSTM(nn.Module):
    """The network.

    TS2Vec's representation of each bar passes a bottleneck (layer norm, `adapter_hidden` units,
    GELU; after Houlsby et al., 2019, who put such adapters between frozen layers); an LSTM reads
    what is left, and its last state is classified.

    Parameters
    ----------
    num_classes
        K, outputs.
    encoder
        Its parameters are named ``encoder.*``, for strict loading and freeze schedules.
    adapter_hidden, hidden_size
        Units of the adapter and of the LSTM.
    dropout
        Between adapter and LSTM.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        encoder: TS2VecEncoder,
        adapter_hidden: int = 32,
        hidden_size: int = 24,
        dropout: float = 0.1,
    ):
        super().__init__()
        for name, value in (("adapter_hidden", adapter_hidden), ("hidden_size", hidden_size)):
            check_count(name, value)
        width = encoder.output_dim
        self.encoder = encoder
        self.adapter = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, adapter_hidden), nn.GELU(), nn.Dropout(dropout)
        )
        self.lstm_head = nn.LSTM(adapter_hidden, hidden_size, batch_first=True)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K); the features are not looked at."""
        return self.forward_head(self.encoder(x_NTC), features_NF)

    def forward_head(self, states_NTD: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits from the encoder's representations, shape (n, T, D)."""
        states_NTH, _ = self.lstm_head(self.adapter(states_NTD))
        return self.classifier(states_NTH[:, -1])


@estimator
class AdapterLSTMModel(TorchWindowClassifier):
    """Scikit-learn estimator around :class:`AdapterLSTM`.

    Parameters
    ----------
    adapter_hidden, hidden_size, dropout
        Of the adapter and the LSTM.
    encoder_hidden, encoder_output, encoder_depth
        Shape of the TS2Vec encoder, see `encoder_shape`.
    **training
        See :class:`~moola.models.fitting.training_params.TrainingParams`.
    """

    model_name = "adapter_lstm"

    adapter_hidden: int = 32
    hidden_size: int = 24
    dropout: float = 0.1
    encoder_hidden: int = 64
    encoder_output: int = 320
    encoder_depth: int = 10

    @property
    def encoder_layers(self) -> tuple[tuple[str, ...], ...]:
        """Patterns of the encoder's tensors, layer by layer from the bottom, for a schedule."""
        blocks = [(f"encoder.blocks.{i}.*",) for i in range(self.encoder_depth + 1)]
        return (("encoder.input.*", *blocks[0]), *blocks[1:])

    @staticmethod
    def encoder_shape(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Return the three `encoder_*` arguments that fit the tensors of a TS2Vec encoder.

        Parameters
        ----------
        tensors
            Of a checkpoint, by name, with or without the prefix ``encoder.``.

        Returns
        -------
        dict
            ``encoder_hidden``, ``encoder_output``, ``encoder_depth``.

        Raises
        ------
        CheckpointError
            If they are not those of one.
        """
        by_end = {name.split("encoder.")[-1]: tensor for name, tensor in tensors.items()}
        depth = sum(n.startswith("blocks.") and n.endswith(".conv2.weight") for n in by_end) - 1
        last = by_end.get(f"blocks.{depth}.conv2.weight")
        first = by_end.get("input.weight")
        if first is None or last is None or depth < 1:
            raise CheckpointError(
                f"the checkpoint holds {', '.join(list(tensors)[:3])}, ...",
                limit="a TS2Vec encoder: input.weight, blocks.0.conv1.weight, ...",
                remedy="Make one with `moola pretrain-ts2vec`",
            )
        return {
            "encoder_hidden": first.shape[0],
            "encoder_output": last.shape[0],
            "encoder_depth": depth,
        }

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        encoder = TS2VecEncoder(
            input_dim=self.net_inputs["input_dim"],
            hidden_dim=self.encoder_hidden,
            output_dim=self.encoder_output,
            depth=self.encoder_depth,
            dropout=self.dropout,
        )
        return AdapterLSTM(
            num_classes=num_classes,
            encoder=encoder,
            adapter_hidden=self.adapter_hidden,
            hidden_size=self.hidden_size,
            dropout=self.dropout,
        )
