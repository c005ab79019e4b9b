"""Masked autoencoder: a BiLSTM that fills in masked bars from both sides.

The objective follows BERT (Devlin et al., 2018) with the patches of PatchTST (Nie et al., 2023):
mean squared error on masked bars only, plus a term against collapse of the representation.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LATENT_WEIGHT = 0.1


class BiLSTMMaskedAutoencoder(nn.Module):
    """BiLSTM encoder, MLP decoder and a learnable token that stands where a bar is masked.

    Parameters
    ----------
    input_dim
        Channels of a bar, 4.
    hidden_dim
        LSTM units per direction.
    num_layers, dropout
        Of the LSTM.
    """

    def __init__(
        self,
        *,
        input_dim: int = 4,
        hidden_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(input_dim))
        self.encoder = nn.LSTM(
            input_dim,
            hidden_dim,
            num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.decoder = nn.Sequential(
            nn.Linear(2 * hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, input_dim)
        )

    def forward(
        self, x_NTC: torch.Tensor, mask_NT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hide the masked bars, encode and decode.

        Returns
        -------
        Reconstruction, shape (n, T, 4), and the encoder's states, shape (n, T, 2 * hidden_dim).
        """
        hidden = torch.where(mask_NT[..., None], self.mask_token.to(x_NTC.dtype), x_NTC)
        states_NTH, _ = self.encoder(hidden)
        return self.decoder(states_NTH), states_NTH

    def compute_loss(
        self,
        reconstruction_NTC: torch.Tensor,
        x_NTC: torch.Tensor,
        mask_NT: torch.Tensor,
        states_NTH: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the training loss and its reconstruction part, both scalars.

        Reconstruction: mean squared error over masked bars. Collapse term:
        ``0.1 * mean(relu(1 - std))`` over the standard deviation of each state dimension.
        """
        weight = mask_NT[..., None].to(x_NTC.dtype)
        squared = (reconstruction_NTC - x_NTC).square() * weight
        error = squared.sum() / (weight.sum() * x_NTC.shape[2]).clamp_min(1)
        spread = states_NTH.flatten(0, 1).std(dim=0)
        return error + LATENT_WEIGHT * functional.relu(1.0 - spread).mean(), error
