"""Freeze schedules as data: which encoder tensors stay fixed until which epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from moola.config.base import check_choice, check_count
from moola.config.training import FREEZE_SCHEDULES
from moola.errors import ConfigError
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.weights.frozen import all_frozen, plain_name, still_modules
from moola.models.weights.net_tensors import PARAMETER, NetTensor, net_tensors, shared_memory

ENCODER = "encoder.*"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """From `first_epoch` (0-based) on: what matches `frozen` stays fixed, rate x `lr_factor`."""

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
        self, epoch: int, tensors: Collection[str], never: Collection[str] = frozenset()
    ) -> set[str]:
        """Return those of `tensors`, less `never`, that the patterns of an epoch name."""
        patterns = self.phase_at(epoch).frozen
        return {t for t in tensors if t not in never and _named_by(patterns, t, tensors)}

    def still_at(
        self, epoch: int, tensors: Mapping[str, NetTensor], never: Collection[str] = frozenset()
    ) -> set[str]:
        """Return all that stays fixed in an epoch: what is named, and the buffers beside it."""
        return all_frozen(tensors, self.frozen_at(epoch, tensors, never), never)

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
    stepped nor decayed. A wholly frozen module runs in evaluation mode, without dropout, and so
    does one with frozen buffers, such as a batch norm: in every batch, whatever else switches modes
    in between. Early stopping keeps no epoch from before the last phase, so that the kept weights
    have been through the whole schedule.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule
        self._still: list[torch.nn.Module] = []

    def on_fit_begin(self, state: FitState) -> None:
        """Check that patterns name tensors, that none has two fates, that phases are reached."""
        tensors = net_tensors(state.net)
        shared = shared_memory(tensors)
        for phase in self.schedule.phases:
            _check_phase(phase, tensors)
            frozen = self.schedule.still_at(phase.first_epoch, tensors, state.never_frozen)
            _check_shared(phase, tensors, frozen, shared)
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
        tensors = net_tensors(state.net)
        frozen = self.schedule.still_at(state.epoch, tensors, state.never_frozen)
        for name, entry in tensors.items():
            if entry.kind == PARAMETER:
                entry.tensor.requires_grad_(name not in frozen)
            if name in frozen:
                entry.tensor.grad = None
        for group, (rate, parameters) in zip(state.optimizer.param_groups, self._base, strict=True):
            group["lr"] = rate * phase.lr_factor
            group["params"] = [p for p in parameters if p.requires_grad]
        self._still = list(still_modules(state.net, tensors, frozen).values())
        self.on_batch_begin(state)

    def on_batch_begin(self, state: FitState) -> None:
        """Put frozen modules into evaluation mode, which an evaluation may have ended."""
        for module in self._still:
            module.training = False


def _named_by(patterns: Collection[str], name: str, tensors: Collection[str]) -> bool:
    names = {name, plain_name(name, tensors)}
    return any(fnmatchcase(n, p) for n in names for p in patterns)


def _check_phase(phase: Phase, tensors: Mapping[str, NetTensor]) -> None:
    for pattern in phase.frozen:
        if not any(_named_by((pattern,), t, tensors) for t in tensors):
            parts = ", ".join(sorted({t.split(".")[0] for t in tensors}))
            raise ConfigError(
                f"freeze pattern {pattern!r} names no tensor of the model",
                limit=f"a pattern of {parts}",
            )
    names = [n for n, t in tensors.items() if t.kind == PARAMETER]
    if all(_named_by(phase.frozen, n, tensors) for n in names):
        raise ConfigError(
            f"the phase from epoch {phase.first_epoch + 1} on freezes all {len(names)} tensors",
            limit="at least one that trains",
        )


def _check_shared(
    phase: Phase,
    tensors: Mapping[str, NetTensor],
    frozen: set[str],
    shared: list[tuple[str, str]],
) -> None:
    for pair in shared:
        fates = {name in frozen for name in pair}
        if len(fates) > 1 and any(tensors[name].kind == PARAMETER for name in pair):
            still, free = sorted(pair, key=lambda name: name not in frozen)
            raise ConfigError(
                f"the phase from epoch {phase.first_epoch + 1} on freezes {still} but not {free}, "
                "which lies in the same memory",
                limit="both or neither",
                remedy="Name both in the pattern, or give each its own tensor",
            )
