"""Freeze schedules as data: which encoder tensors stand still from which epoch on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from moola.config.base import check_choice
from moola.config.training import FREEZE_SCHEDULES
from moola.errors import ConfigError
from moola.models.callbacks import Callback, FitState

ENCODER = "encoder.*"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """From `first_epoch` (0-based) on: tensors matching `frozen` stand still, rate x `lr_factor`."""

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

    def frozen_at(self, epoch: int, tensors: list[str]) -> set[str]:
        """Return those of `tensors` that stand still in an epoch."""
        patterns = self.phase_at(epoch).frozen
        return {t for t in tensors if any(fnmatchcase(t, p) for p in patterns)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def make_schedule(
    name: str, *, unfreeze_after: int = 10, lr_factor: float = 0.5, num_layers: int = 1
) -> FreezeSchedule:
    """Return a schedule by name.

    Parameters
    ----------
    name
        ``none``; ``frozen`` (the whole training); ``two_phase`` (frozen for `unfreeze_after`
        epochs, then everything trains); ``gradual`` (every `unfreeze_after` epochs one more LSTM
        layer trains, the top one first).
    unfreeze_after
        Epochs; 0 means that the encoder starts unfrozen.
    lr_factor
        The learning rate is multiplied by this at the first unfreezing.
    num_layers
        Layers of the encoder, for ``gradual``.
    """
    check_choice("freeze", name, FREEZE_SCHEDULES)
    if name == "none" or (name != "frozen" and unfreeze_after == 0):
        return FreezeSchedule(name=name, phases=(Phase(first_epoch=0, frozen=()),))
    begin = Phase(first_epoch=0, frozen=(ENCODER,))
    if name == "frozen":
        return FreezeSchedule(name=name, phases=(begin,))
    if name == "two_phase":
        rest = Phase(first_epoch=unfreeze_after, frozen=(), lr_factor=lr_factor)
        return FreezeSchedule(name=name, phases=(begin, rest))
    phases = [begin]
    for step in range(1, num_layers + 1):
        still = tuple(
            f"encoder.*_l{layer}{side}"
            for layer in range(num_layers - step)
            for side in ("", "_reverse")
        )
        phases.append(
            Phase(first_epoch=step * unfreeze_after, frozen=still, lr_factor=lr_factor)
        )
    return FreezeSchedule(name=name, phases=tuple(phases))


class FreezeCallback(Callback):
    """Carry a schedule out: set ``requires_grad``, the learning rate, and the encoder's mode.

    A frozen tensor has no gradient, so the optimiser neither steps nor decays it. A wholly frozen
    encoder runs in evaluation mode, without dropout. Early stopping keeps no epoch from before the
    last phase, so that the kept weights have been through the whole schedule.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule

    def on_fit_begin(self, state: FitState) -> None:
        """Check that every pattern names a tensor and that every phase is reached."""
        tensors = [name for name, _ in state.net.named_parameters()]
        for phase in self.schedule.phases:
            for pattern in phase.frozen:
                if not any(fnmatchcase(t, pattern) for t in tensors):
                    raise ConfigError(
                        f"freeze pattern {pattern!r} names no tensor of the model",
                        limit=f"a pattern of {', '.join(sorted({t.split('.')[0] for t in tensors}))}",
                    )
        last = self.schedule.phases[-1].first_epoch
        if last >= state.num_epochs:
            raise ConfigError(
                f"freeze schedule {self.schedule.name} unfreezes after epoch {last}, but training "
                f"ends with epoch {state.num_epochs}",
                remedy="Train longer (--epochs), unfreeze earlier (--unfreeze-after), or say "
                "--freeze frozen",
            )
        state.first_epoch_to_keep = last
        self._base_rates = [group["lr"] for group in state.optimizer.param_groups]

    def on_epoch_begin(self, state: FitState) -> None:
        """Apply the phase in force."""
        phase = self.schedule.phase_at(state.epoch)
        for name, parameter in state.net.named_parameters():
            frozen = any(fnmatchcase(name, pattern) for pattern in phase.frozen)
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None
        for group, base in zip(state.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * phase.lr_factor
        encoder = getattr(state.net, "encoder", None)
        if isinstance(encoder, nn.Module) and not any(
            p.requires_grad for p in encoder.parameters()
        ):
            encoder.eval()
