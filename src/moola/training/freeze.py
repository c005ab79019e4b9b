"""Freeze schedules as data: which encoder tensors stand still from which epoch on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from moola.config.base import check_choice, check_count
from moola.config.training import FREEZE_SCHEDULES
from moola.errors import ConfigError
from moola.models.callbacks import Callback, FitState

ENCODER = "encoder.*"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """From `first_epoch` (0-based) on: what matches `frozen` stands still, rate x `lr_factor`."""

    first_epoch: int
    frozen: tuple[str, ...]
    lr_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FreezeSchedule:
    """Phases in order of time; the first begins with epoch 0."""

    name: str
    phases: tuple[Phase, ...]

    def phase_at(self, epoch: int) -> Phase:
        """Return the phase in force in an epoch."""
        return [p for p in self.phases if p.first_epoch <= epoch][-1]

    def frozen_at(
        self, epoch: int, tensors: list[str], never: frozenset[str] = frozenset()
    ) -> set[str]:
        """Return those of `tensors`, less `never`, that stand still in an epoch."""
        patterns = self.phase_at(epoch).frozen
        return {t for t in tensors if t not in never and any(fnmatchcase(t, p) for p in patterns)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def make_schedule(
    name: str,
    *,
    unfreeze_after: int = 10,
    lr_factor: float = 0.5,
    num_layers: int = 1,
    phases: Sequence[int] = (),
    bidirectional: bool = True,
    layers: Sequence[tuple[str, ...]] | None = None,
) -> FreezeSchedule:
    """Return a schedule by name.

    Parameters
    ----------
    name
        ``none``; ``frozen`` (the whole training); ``two_phase`` (frozen for `unfreeze_after`
        epochs, then everything trains); ``gradual`` (every `unfreeze_after` epochs one more LSTM
        layer trains, the top one first); ``phases`` (frozen for the first number of epochs of
        `phases`, then the layers are unfrozen from the top in as many steps as numbers follow).
    unfreeze_after
        Epochs; 0 means that the encoder starts unfrozen.
    lr_factor
        The learning rate is multiplied by this at the first unfreezing.
    num_layers, bidirectional
        Of the encoder, for ``gradual`` and ``phases``.
    phases
        Epochs of each phase, for ``phases``, such as (30, 10, 5).
    layers
        Patterns of each layer's tensors, from the bottom; None: those of an LSTM of `num_layers`.

    Returns
    -------
    FreezeSchedule
        Its first phase begins with epoch 0.

    Raises
    ------
    ConfigError
        If `phases` has fewer than two numbers, or more steps than the encoder has layers.
    """
    check_choice("freeze", name, FREEZE_SCHEDULES)
    if layers is None:
        sides = ("", "_reverse") if bidirectional else ("",)
        layers = [tuple(f"encoder.*_l{n}{side}" for side in sides) for n in range(num_layers)]
    num_layers = len(layers)
    begin = Phase(first_epoch=0, frozen=(ENCODER,))
    if name == "phases":
        steps = _phase_steps(phases, num_layers)
    elif name == "none" or (name != "frozen" and unfreeze_after == 0):
        return FreezeSchedule(name=name, phases=(Phase(first_epoch=0, frozen=()),))
    elif name == "frozen":
        steps = []
    elif name == "two_phase":
        steps = [(unfreeze_after, 0)]
    else:
        steps = [(k * unfreeze_after, num_layers - k) for k in range(1, num_layers + 1)]
    later = [
        Phase(
            first_epoch=epoch,
            frozen=tuple(pattern for layer in layers[:still] for pattern in layer),
            lr_factor=lr_factor,
        )
        for epoch, still in steps
    ]
    return FreezeSchedule(name=name, phases=(begin, *later))


def _phase_steps(phases: Sequence[int], num_layers: int) -> list[tuple[int, int]]:
    """Return, for each later phase, its first epoch and how many bottom layers stay frozen."""
    for count in phases:
        check_count("phases", count)
    num_steps = len(phases) - 1
    if not 1 <= num_steps <= num_layers:
        raise ConfigError(
            f"phases {list(phases)} unfreezes in {max(num_steps, 0)} steps",
            limit=f"1 to {num_layers}, one for each layer of the encoder at most",
            remedy="Give the epochs of each phase, the frozen one first, such as 30,10",
        )
    # step k of n leaves floor(L * (n - k) / n) layers frozen: 0 in the last
    return [
        (sum(phases[:k]), num_layers * (num_steps - k) // num_steps)
        for k in range(1, num_steps + 1)
    ]


class FreezeCallback(Callback):
    """Carry a schedule out: ``requires_grad``, the optimiser's groups and rate, the encoder's mode.

    A frozen tensor leaves the optimiser's parameter groups and loses its gradient, so it is neither
    stepped nor decayed. A wholly frozen encoder runs in evaluation mode, without dropout. Early
    stopping keeps no epoch from before the last phase, so that the kept weights have been through
    the whole schedule.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule

    def on_fit_begin(self, state: FitState) -> None:
        """Check that every pattern names a tensor and that every phase is reached."""
        tensors = [name for name, _ in state.net.named_parameters()]
        for phase in self.schedule.phases:
            _check_phase(phase, tensors)
        last = self.schedule.phases[-1].first_epoch
        if last >= state.num_epochs:
            raise ConfigError(
                f"freeze schedule {self.schedule.name} unfreezes after epoch {last}, but training "
                f"ends with epoch {state.num_epochs}",
                remedy="Train longer (--epochs), unfreeze earlier (--unfreeze-after), or say "
                "--freeze frozen",
            )
        state.first_epoch_to_keep = last
        groups = state.optimizer.param_groups
        self._base: list[tuple[float, list[torch.Tensor]]] = [
            (group["lr"], list(group["params"])) for group in groups
        ]

    def on_epoch_begin(self, state: FitState) -> None:
        """Apply the phase in force."""
        phase = self.schedule.phase_at(state.epoch)
        named = dict(state.net.named_parameters())
        frozen = self.schedule.frozen_at(state.epoch, list(named), state.never_frozen)
        for name, parameter in named.items():
            parameter.requires_grad_(name not in frozen)
            if name in frozen:
                parameter.grad = None
        for group, (rate, parameters) in zip(state.optimizer.param_groups, self._base, strict=True):
            group["lr"] = rate * phase.lr_factor
            group["params"] = [p for p in parameters if p.requires_grad]
        encoder = getattr(state.net, "encoder", None)
        if isinstance(encoder, nn.Module) and not any(
            p.requires_grad for p in encoder.parameters()
        ):
            encoder.eval()


def _check_phase(phase: Phase, tensors: list[str]) -> None:
    for pattern in phase.frozen:
        if not any(fnmatchcase(t, pattern) for t in tensors):
            parts = ", ".join(sorted({t.split(".")[0] for t in tensors}))
            raise ConfigError(
                f"freeze pattern {pattern!r} names no tensor of the model",
                limit=f"a pattern of {parts}",
            )
    if all(any(fnmatchcase(t, p) for p in phase.frozen) for t in tensors):
        raise ConfigError(
            f"the phase from epoch {phase.first_epoch + 1} on freezes all {len(tensors)} tensors",
            limit="at least one that trains",
        )
