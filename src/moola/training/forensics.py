"""Forensics: what every tensor did in every epoch, and whether that is what the run said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pyarrow as pa
import torch

from moola.errors import ProofError
from moola.models.callbacks import Callback, FitState
from moola.models.pretrained_utils import is_encoder_tensor
from moola.training.freeze import FreezeSchedule

_EVOLUTION = pa.schema(
    [
        ("epoch", pa.int32()),
        ("tensor", pa.string()),
        ("part", pa.string()),
        ("requires_grad", pa.bool_()),
        ("grad_norm", pa.float64()),
        ("moved_in_epoch", pa.bool_()),
        ("change_since_load", pa.float64()),
    ]
)


class WeightEvolution(Callback):
    """Record every tensor's gradient and movement by epoch, and hold it against the schedule.

    `grad_norm` is the root mean square over the epoch's batches of the tensor's gradient norm
    before clipping; `change_since_load` is ``|w - w0| / |w0|`` against the weights at the start of
    training (a tensor that starts at 0 has changed by 1 as soon as it moves).

    Parameters
    ----------
    schedule
        What the run said it would do.

    Raises
    ------
    ProofError
        At the end of the epoch in which a frozen tensor moved or stood in the optimiser, an
        unfrozen one did not, or a trainable tensor had no gradient at all; and at the end, when
        the head never trained.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule
        self.rows: list[dict[str, Any]] = []
        self.reasons: list[str] = []

    def on_fit_begin(self, state: FitState) -> None:
        """Keep the weights as loaded."""
        self._parameters = dict(state.net.named_parameters())
        self._loaded = {n: p.detach().clone() for n, p in self._parameters.items()}

    def on_epoch_begin(self, state: FitState) -> None:
        """Keep the weights of the epoch's start."""
        self._before = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._squares: dict[str, torch.Tensor] = {}
        self._batches = 0

    def on_gradients(self, state: FitState) -> None:
        """Add up squared gradient norms, on the device, without waiting for it."""
        self._batches += 1
        named = [(n, p.grad) for n, p in self._parameters.items() if p.grad is not None]
        norms = torch._foreach_norm([g for _, g in named]) if named else []
        for (name, _), norm in zip(named, norms, strict=True):
            square = norm.square()
            self._squares[name] = self._squares[name] + square if name in self._squares else square

    def on_epoch_end(self, state: FitState) -> None:
        """Write the epoch's rows and hold them against the schedule."""
        frozen = self.schedule.frozen_at(state.epoch, list(self._parameters), state.never_frozen)
        stepped = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
        norms: dict[str, float] = {"encoder": 0.0, "head": 0.0}
        for name, parameter in self._parameters.items():
            now, start = parameter.detach(), self._loaded[name]
            square = float(self._squares.get(name, torch.zeros(()))) / max(self._batches, 1)
            part = "encoder" if is_encoder_tensor(name) else "head"
            norms[part] += square
            row = {
                "epoch": state.epoch,
                "tensor": name,
                "part": part,
                "requires_grad": parameter.requires_grad,
                "grad_norm": square**0.5,
                "moved_in_epoch": not torch.equal(now, self._before[name]),
                "change_since_load": _relative_change(start, now),
            }
            self.rows.append(row)
            self.reasons += _faults(row, name in frozen, id(parameter) in stepped)
        state.history[-1] |= {f"grad_norm_{part}": value**0.5 for part, value in norms.items()}
        if self.reasons:
            raise ProofError(
                f"freeze schedule {self.schedule.name} was not carried out: {self.reasons[0]}"
            )

    def on_fit_end(self, state: FitState) -> None:
        """Check that the head trained."""
        if not any(r["moved_in_epoch"] for r in self.rows if r["part"] == "head"):
            self.reasons.append("no tensor of the head moved in any epoch")
            raise ProofError(self.reasons[-1])

    def state(self) -> dict[str, Any]:
        """Return the rows of the epochs so far."""
        return {"schedule": self.schedule.to_dict(), "rows": self.rows}

    def load_state(self, values: Mapping[str, Any]) -> None:
        """Take the rows back; refuse those of another schedule."""
        written = json.dumps(self.schedule.to_dict())
        if json.dumps(values["schedule"]) != written:
            raise ProofError(
                f"the interrupted run followed schedule {values['schedule']['name']}",
                limit=f"{self.schedule.name}, the same phases",
                remedy="Begin anew without --resume",
            )
        self.rows = list(values["rows"])

    def proof(self) -> dict[str, Any]:
        """Return whether the schedule is proven, with the counts behind it."""
        phases = []
        epochs = max((r["epoch"] for r in self.rows), default=-1) + 1
        begins = [p.first_epoch for p in self.schedule.phases if p.first_epoch < epochs]
        for begin, end in pairwise([*begins, epochs]):
            rows = [r for r in self.rows if begin <= r["epoch"] < end and r["part"] == "encoder"]
            phases.append(
                {
                    "epochs": [begin, end - 1],
                    "encoder_tensors_frozen": len(
                        {r["tensor"] for r in rows if not r["requires_grad"]}
                    ),
                    "encoder_tensors_moved": len(
                        {r["tensor"] for r in rows if r["moved_in_epoch"]}
                    ),
                    "largest_change_since_load": max(
                        (r["change_since_load"] for r in rows), default=0.0
                    ),
                }
            )
        reached = len(begins) == len(self.schedule.phases)
        reasons = list(self.reasons)
        if not reached:
            reasons.append(f"training ended in epoch {epochs}, before the last phase began")
        return {
            "schedule": self.schedule.name,
            "proven": bool(self.rows) and not reasons,
            "reasons": reasons,
            "phases": phases,
        }

    def to_table(self) -> pa.Table:
        """Return one row a tensor and epoch."""
        return pa.Table.from_pylist(self.rows, schema=_EVOLUTION)


def _relative_change(start: torch.Tensor, now: torch.Tensor) -> float:
    norm = float(start.norm()) or float(now.norm())
    return float((now - start).norm()) / norm if norm else 0.0


def _faults(row: dict[str, Any], frozen: bool, stepped: bool) -> list[str]:
    where = f"{row['tensor']} in epoch {row['epoch'] + 1}"
    if frozen and row["moved_in_epoch"]:
        return [f"frozen tensor moved: {where}"]
    if frozen and row["requires_grad"]:
        return [f"frozen tensor has requires_grad set: {where}"]
    if frozen and stepped:
        return [f"frozen tensor stands in the optimiser: {where}"]
    if not frozen and not row["requires_grad"]:
        return [f"tensor stayed frozen: {where}"]
    if not frozen and not stepped:
        return [f"unfrozen tensor is not in the optimiser: {where}"]
    if not frozen and row["grad_norm"] == 0.0:
        return [f"no gradient in a whole epoch: {where}"]
    if not frozen and not row["moved_in_epoch"]:
        return [f"unfrozen tensor did not move: {where}"]
    return []
