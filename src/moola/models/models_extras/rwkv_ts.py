"""RWKV-TS: RWKV's linear recurrence on series (Hou and Yu, 2024, arXiv:2401.09093).

Time mixing and channel mixing are those of RWKV-4 (Peng et al., 2023, arXiv:2305.13048, equations
11 to 18), in the numerically stable form of its appendix D; patches of bars are the tokens, as in
RWKV-TS.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from moola.config.base import check_count
from moola.models.base import estimator
from moola.models.estimator import TorchWindowClassifier


class RWKVTS(nn.Module):
    """Patches, RWKV blocks, the last token's state, classifier.

    Parameters
    ----------
    num_classes, input_dim
        K outputs; channels of a bar.
    width, num_layers
        Channels of a token, and blocks.
    patch_size
        Bars of a token; earlier bars that fill no patch repeat the window's first.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_dim: int = 4,
        width: int = 32,
        num_layers: int = 2,
        patch_size: int = 7,
    ):
        super().__init__()
        for name, value in (("width", width), ("num_layers", num_layers)):
            check_count(name, value)
        check_count("patch_size", patch_size)
        self.patch_size = patch_size
        self.embed = nn.Sequential(nn.Linear(input_dim * patch_size, width), nn.LayerNorm(width))
        self.blocks = nn.ModuleList(_RwkvBlock(width) for _ in range(num_layers))
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x_NTC: torch.Tensor, features_NF: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (n, K); the features are not looked at."""
        missing = -x_NTC.shape[1] % self.patch_size
        x_NTC = torch.cat([x_NTC[:, :1].expand(-1, missing, -1), x_NTC], dim=1)
        patches = x_NTC.unfold(1, self.patch_size, self.patch_size).flatten(2)
        tokens_NLD = self.embed(patches)
        for block in self.blocks:
            tokens_NLD = block(tokens_NLD)
        return self.classifier(tokens_NLD[:, -1])


class _RwkvBlock(nn.Module):
    """Time mixing, then channel mixing, each on normalised tokens and beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.time, self.channel = TimeMixing(width), _ChannelMixing(width)

    def forward(self, x_NLD: torch.Tensor) -> torch.Tensor:
        x_NLD = x_NLD + self.time(self.norm1(x_NLD))
        return x_NLD + self.channel(self.norm2(x_NLD))


class TimeMixing(nn.Module):
    """Receptance, key and value of each token; the WKV mean of past values."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Parameter(torch.full((3, width), 0.5))
        self.decay = nn.Parameter(torch.linspace(-5.0, 1.0, width))
        self.bonus = nn.Parameter(torch.zeros(width))
        self.receptance, self.key, self.value, self.output = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x_NLD: torch.Tensor) -> torch.Tensor:
        """Return mixed tokens, shape (n, L, width)."""
        r_NLD, k_NLD, v_NLD = _shifted(x_NLD, self.mix)
        wkv = self.wkv(self.key(k_NLD), self.value(v_NLD))
        return self.output(torch.sigmoid(self.receptance(r_NLD)) * wkv)

    def wkv(self, k_NLD: torch.Tensor, v_NLD: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of values so far, shape (n, L, width).

        Value i counts ``exp(k_i - (t - 1 - i) w)`` at step t, the present one ``exp(u + k_t)``,
        with w = exp(decay) > 0 and u = bonus. Exponents are kept relative to their largest.
        """
        decay = torch.exp(self.decay)
        above = below = torch.zeros_like(v_NLD[:, 0])
        largest = torch.full_like(above, -1e30)
        out = []
        for k, v in zip(k_NLD.unbind(1), v_NLD.unbind(1), strict=True):
            top = torch.maximum(largest, self.bonus + k)
            past, now = torch.exp(largest - top), torch.exp(self.bonus + k - top)
            out.append((past * above + now * v) / (past * below + now))
            top = torch.maximum(largest - decay, k)
            past, now = torch.exp(largest - decay - top), torch.exp(k - top)
            above, below, largest = past * above + now * v, past * below + now, top
        return torch.stack(out, dim=1)


class _ChannelMixing(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Parameter(torch.full((2, width), 0.5))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, 4 * width, bias=False)
        self.value = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_NLD: torch.Tensor) -> torch.Tensor:
        r_NLD, k_NLD = _shifted(x_NLD, self.mix)
        inner = functional.relu(self.key(k_NLD)).square()
        return torch.sigmoid(self.receptance(r_NLD)) * self.value(inner)


def _shifted(x_NLD: torch.Tensor, mix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return, for each row of `mix`, the tokens blended with the token before."""
    before = functional.pad(x_NLD, (0, 0, 1, -1))
    return tuple(share * x_NLD + (1.0 - share) * before for share in mix)


@estimator
class RWKVTSModel(TorchWindowClassifier):
    """Scikit-learn estimator around :class:`RWKVTS`."""

    model_name = "moola.models.models_extras.rwkv_ts.RWKVTSModel"

    width: int = 32
    num_layers: int = 2
    patch_size: int = 7

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        return RWKVTS(
            num_classes=num_classes,
            input_dim=self.net_inputs["input_dim"],
            width=self.width,
            num_layers=self.num_layers,
            patch_size=self.patch_size,
        )
