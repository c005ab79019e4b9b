"""The training set on the device: its augmentation draws, and a frozen encoder's outputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moola.models.fitting.augmentation import (
    FROZEN_DRAWS,
    Augmentation,
    mix_windows,
)
from moola.models.weights.net_tensors import net_tensors

CACHE_BYTES = 2 << 30
_ENCODE_BATCH = 256
Prepare = Callable[[NDArray[np.float32]], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class TrainSet:
    """Inputs, shapes (n, T, 4) and (n, 20), and classes of one draw.

    Where windows are mixed, `other` is the second class and `share` what the first one counts.
    """

    x: torch.Tensor
    features: torch.Tensor
    target: torch.Tensor
    other: torch.Tensor | None = None
    share: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    def labels(
        self, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return what the loss takes beside the logits."""
        if self.other is None or self.share is None:
            return self.target[rows], None, None
        return self.target[rows], self.other[rows], self.share[rows]


class TrainSource:
    """The training windows, and their augmentation draws as they are asked for.

    Parameters
    ----------
    X_NTC
        Windows in price units.
    target
        Class indices, shape (n,).
    prepare
        From windows in price units to the net's two inputs, on the device.
    augmentation, seed
        What a draw is made by.
    """

    def __init__(
        self,
        X_NTC: NDArray[np.float32],
        target: NDArray[np.int64],
        *,
        prepare: Prepare,
        augmentation: Augmentation,
        seed: int,
    ):
        x_NTC, features_NF = prepare(X_NTC)
        target_N = torch.from_numpy(target).to(x_NTC.device)
        self._plain = TrainSet(x=x_NTC, features=features_NF, target=target_N)
        self._X, self._prepare = X_NTC, prepare
        self._augmentation, self._seed = augmentation, seed
        self._last: tuple[int, TrainSet] | None = None

    def __len__(self) -> int:
        return len(self._plain)

    def number(self, epoch: int, *, frozen: bool) -> int:
        """Return which draw an epoch trains on: few while the encoder is frozen, else a new one."""
        if not self._augmentation.active:
            return 0
        return epoch % FROZEN_DRAWS if frozen else FROZEN_DRAWS + epoch

    def draw(self, number: int) -> TrainSet:
        """Return a draw; without augmentation, the windows themselves."""
        if not self._augmentation.active:
            return self._plain
        if self._last is None or self._last[0] != number:
            self._last = (number, self._make(number))
        return self._last[1]

    def _make(self, number: int) -> TrainSet:
        rng = np.random.default_rng([self._seed, number])
        data = self._plain
        if self._augmentation.temporal is not None:
            x, f = self._prepare(self._augmentation.temporal.augment(self._X, rng))
            data = TrainSet(x=x, features=f, target=data.target)
        if self._augmentation.mixes:
            mixed = mix_windows(data.x, data.features, data.target, self._augmentation, rng)
            data = TrainSet(**mixed.__dict__)
        return data


class EncoderCache:
    """The outputs of a wholly frozen encoder, computed once per set of windows.

    Kept while the encoder is frozen, in evaluation mode and unchanged (by the version counters of
    its tensors); dropped as soon as it is not. Beyond `limit_bytes` nothing more is kept.
    """

    def __init__(self, net: nn.Module, *, enabled: bool = True, limit_bytes: int = CACHE_BYTES):
        self.num_encoded = 0
        self._net, self._limit = net, limit_bytes
        self._enabled = enabled and hasattr(net, "forward_head")
        self._kept: dict[Hashable, torch.Tensor] = {}
        self._versions: tuple[int, ...] = ()

    def begin_epoch(self) -> None:
        """Drop what was kept if the encoder may change, or has changed."""
        if not self._enabled:
            return
        if not encoder_is_frozen(self._net):
            self._kept.clear()
            return
        versions = tuple(t.tensor._version for t in net_tensors(self._encoder()).values())
        if versions != self._versions:
            self._kept.clear()
            self._versions = versions

    def states(self, key: Hashable, x_NTC: torch.Tensor, *, use_amp: bool) -> torch.Tensor | None:
        """Return the encoder's states of a set, shape (n, T, h); None where they are not kept."""
        if not self._enabled or not encoder_is_frozen(self._net):
            return None
        if key not in self._kept:
            width = 2 if use_amp else 4
            size = x_NTC.shape[0] * x_NTC.shape[1] * self._num_outputs() * width
            num_bytes = sum(t.numel() * t.element_size() for t in self._kept.values())
            if num_bytes + size > self._limit:
                return None
            self._kept[key] = self._encode(x_NTC, use_amp)
        return self._kept[key]

    def _encoder(self) -> nn.Module:
        encoder = self._net.encoder
        assert isinstance(encoder, nn.Module)
        return encoder

    def _num_outputs(self) -> int:
        encoder = self._encoder()
        width = getattr(encoder, "output_dim", None)
        if width is not None:
            return int(width)
        directions = 2 if getattr(encoder, "bidirectional", False) else 1
        return int(getattr(encoder, "hidden_size", 0)) * directions

    @torch.no_grad()
    def _encode(self, x_NTC: torch.Tensor, use_amp: bool) -> torch.Tensor:
        self.num_encoded += len(x_NTC)
        with torch.autocast("cuda", torch.bfloat16, enabled=use_amp):
            states = [self._encoder()(part) for part in x_NTC.split(_ENCODE_BATCH)]
        parts = [s if isinstance(s, torch.Tensor) else s[0] for s in states]
        return torch.cat(parts)


def encoder_is_frozen(net: nn.Module) -> bool:
    """Whether all of the net's encoder runs in evaluation mode and no parameter of it trains."""
    encoder = getattr(net, "encoder", None)
    return (
        isinstance(encoder, nn.Module)
        and not any(module.training for module in encoder.modules())
        and not any(p.requires_grad for p in encoder.parameters())
    )
