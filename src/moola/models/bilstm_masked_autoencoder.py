"""Masked autoencoder: a BiLSTM that fills in masked bars from both sides.

The objective follows BERT (Devlin et al., 2018) with the patches of PatchTST (Nie et al., 2023):
mean squared error on masked bars only, plus a term against collapse of the representation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from moola.config.pretraining import MASKED_LSTM_LATENT_WEIGHT
from moola.models.encoder import lstm_encoder


class BiLSTMMaskedAutoencoder(nn.Module):
    """BiLSTM encoder, MLP decoder and a learnable token that takes the place of a masked bar.

    Parameters
    ----------
    input_dim
        Channels of a bar, 4.
    hidden_dim
        LSTM units per direction.
    num_layers, dropout
        Of the LSTM.
    bridge
        Whether the decoder gives a masked bar's distance from the line between the visible bars
        on either side, instead of the bar itself. The encoder sees the same and has the same
        tensors.
    """

    def __init__(
        self,
        *,
        input_dim: int = 4,
        hidden_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.2,
        bridge: bool = False,
    ):
        super().__init__()
        self.bridge = bridge
        self.mask_token = nn.Parameter(torch.zeros(input_dim))
        self.encoder = lstm_encoder(input_dim, hidden_dim, num_layers, dropout=dropout)
        self.decoder = nn.Sequential(
            nn.Linear(2 * hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, input_dim)
        )

    def forward(
        self, x_NTC: torch.Tensor, mask_NT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hide the masked bars, encode and decode.

        Parameters
        ----------
        x_NTC
            Normalised windows, shape (n, T, 4), finite.
        mask_NT
            True where a bar is hidden, shape (n, T).

        Returns
        -------
        Reconstruction, shape (n, T, 4), and the encoder's states, shape (n, T, 2 * hidden_dim).
        """
        hidden = torch.where(mask_NT[..., None], self.mask_token.to(x_NTC.dtype), x_NTC)
        states_NTH, _ = self.encoder(hidden)
        decoded = self.decoder(states_NTH)
        return (decoded + interpolate(x_NTC, mask_NT) if self.bridge else decoded), states_NTH

    def compute_loss(
        self,
        reconstruction_NTC: torch.Tensor,
        x_NTC: torch.Tensor,
        mask_NT: torch.Tensor,
        states_NTH: torch.Tensor,
        *,
        latent_weight: float = MASKED_LSTM_LATENT_WEIGHT,
        total: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the training loss and its reconstruction part, both scalars.

        Reconstruction: mean squared error over masked bars. Collapse term: ``latent_weight *
        mean(relu(1 - std))`` over the standard deviation of each state dimension. Where several
        processes hold a part of the batch each, `total` sums a tensor over them and the loss is
        that of the whole batch.
        """
        weight = mask_NT[..., None].to(x_NTC.dtype)
        squared = ((reconstruction_NTC - x_NTC).square() * weight).sum()
        sums = torch.stack([squared, weight.sum() * x_NTC.shape[2]])
        squared, count = (sums if total is None else total(sums)).unbind()
        error = squared / count.clamp_min(1)
        spread = _spread(states_NTH.flatten(0, 1), total)
        return error + latent_weight * functional.relu(1.0 - spread).mean(), error


def _spread(
    states_NH: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    """Return each dimension's standard deviation, over all processes."""
    if total is None:
        return states_NH.std(dim=0)
    sizes = torch.full_like(states_NH[:1], len(states_NH))
    count, first = total(torch.cat([sizes, states_NH.sum(dim=0, keepdim=True)])).unbind()
    squares = total((states_NH - first / count).square().sum(dim=0))
    return (squares / (count - 1)).sqrt()


def interpolate(x_NTC: torch.Tensor, mask_NT: torch.Tensor) -> torch.Tensor:
    """Return the windows with masked bars filled linearly, channel by channel.

    Beyond the first and the last visible bar of a window, that bar is repeated.
    """
    T = x_NTC.shape[1]
    bar = torch.arange(T, device=x_NTC.device).expand(mask_NT.shape)
    left_bar = torch.where(mask_NT, -1, bar).cummax(dim=1).values
    right = torch.where(mask_NT, T, bar).flip(1).cummin(dim=1).values.flip(1)
    left_bar, right = (
        torch.where(left_bar < 0, right, left_bar),
        torch.where(right >= T, left_bar, right),
    )
    left_bar, right = left_bar.clamp(0, T - 1), right.clamp(0, T - 1)
    share = ((bar - left_bar) / (right - left_bar).clamp_min(1)).to(x_NTC.dtype)[..., None]
    row = torch.arange(len(x_NTC), device=x_NTC.device)[:, None]
    return (1 - share) * x_NTC[row, left_bar] + share * x_NTC[row, right]
