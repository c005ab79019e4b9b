"""Forensics: what every tensor did in every epoch, and whether that is what the run said."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pyarrow as pa
import torch

from moola.errors import ProofError
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.pretrained_utils import is_encoder_tensor
from moola.models.weights.freeze import FreezeSchedule
from moola.models.weights.frozen import still_modules
from moola.models.weights.net_tensors import (
    BUFFER,
    PARAMETER,
    NetTensor,
    difference,
    net_tensors,
    same_bits,
)

_EVOLUTION = pa.schema(
    [
        ("epoch", pa.int32()),
        ("tensor", pa.string()),
        ("part", pa.string()),
        ("requires_grad", pa.bool_()),
        ("grad_norm", pa.float64()),
        ("moved_in_epoch", pa.bool_()),
        ("change_since_load", pa.float64()),
        ("kind", pa.string()),
        ("frozen", pa.bool_()),
    ]
)


class WeightEvolution(Callback):
    """Record every tensor's gradient and movement by epoch, and hold it against the schedule.

    Tensors are parameters and buffers (`kind`), persistent or not, each under all of its names; the
    net is asked for them anew in every epoch. `moved_in_epoch` compares bits, type and shape with
    the end of the epoch before; `frozen` is what the schedule says; `grad_norm` is the root mean
    square over the epoch's batches of the tensor's gradient norm before clipping;
    `change_since_load` is ``|w - w0| / |w0|`` against the start of training (a tensor that starts
    at 0 has changed by 1 as soon as it moves), None where that is no number.

    Parameters
    ----------
    schedule
        What the run said it would do.

    Raises
    ------
    ProofError
        At the end of the epoch in which a frozen tensor moved, appeared, vanished or was in the
        optimiser, a frozen module ran in training mode, an unfrozen tensor or running statistic
        did not move, or a trainable tensor had no gradient at all; and at the end, when the kept
        weights are not what was frozen, or the head never trained.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule
        self.rows: list[dict[str, Any]] = []
        self.reasons: list[str] = []

    def on_fit_begin(self, state: FitState) -> None:
        """Keep the tensors as loaded."""
        self._loaded = _copies(net_tensors(state.net))
        self._before: dict[str, torch.Tensor] = {}

    def on_epoch_begin(self, state: FitState) -> None:
        """Note what is to stay fixed, and what a resumed run must have kept as loaded."""
        tensors = net_tensors(state.net)
        frozen = self.schedule.still_at(state.epoch, tensors, state.never_frozen)
        self._still = still_modules(state.net, tensors, frozen)
        self._trained: set[str] = set()
        self._squares: dict[int, torch.Tensor] = {}
        self._batches = 0
        if not self._before:
            self._before = _copies(tensors) | self._never_trained(state, tensors, state.epoch)

    def on_batch_begin(self, state: FitState) -> None:
        """Look at the modes that the batch runs in."""
        self._trained.update(path for path, module in self._still.items() if module.training)

    def on_gradients(self, state: FitState) -> None:
        """Add up squared gradient norms, on the device, without waiting for it."""
        self._batches += 1
        named = [(id(p), p.grad) for p in state.net.parameters() if p.grad is not None]
        norms = torch._foreach_norm([g for _, g in named]) if named else []
        for (key, _), norm in zip(named, norms, strict=True):
            square = norm.square()
            self._squares[key] = self._squares[key] + square if key in self._squares else square

    def on_epoch_end(self, state: FitState) -> None:
        """Write the epoch's rows and hold them against the schedule."""
        tensors = net_tensors(state.net)
        frozen = self.schedule.still_at(state.epoch, tensors, state.never_frozen)
        stepped = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
        counted: set[int] = set()
        norms: dict[str, float] = {"encoder": 0.0, "head": 0.0}
        for name, entry in tensors.items():
            square = float(self._squares.get(id(entry.tensor), 0.0)) / max(self._batches, 1)
            row = self._row(name, entry, state.epoch, square) | {"frozen": name in frozen}
            if id(entry.tensor) not in counted:
                norms[row["part"]] += square
            counted.add(id(entry.tensor))
            self.rows.append(row)
            self.reasons += _changes(row, entry, self._before.get(name))
            self.reasons += _faults(row, name in frozen, id(entry.tensor) in stepped)
        self.reasons += self._epoch_faults(state, tensors)
        self._before = _copies(tensors)
        state.history[-1] |= {f"grad_norm_{part}": value**0.5 for part, value in norms.items()}
        self._require_kept()

    def on_fit_end(self, state: FitState) -> None:
        """Check that the kept weights hold what was frozen, and that the head trained."""
        tensors = net_tensors(state.net)
        for name, loaded in self._never_trained(state, tensors, state.kept_epoch).items():
            if self.rows and not same_bits(tensors[name].tensor, loaded):
                self.reasons.append(f"frozen tensor differs from the load in the end: {name}")
        self._require_kept()
        if not any(r["moved_in_epoch"] for r in self.rows if r["part"] == "head"):
            self.reasons.append("no tensor of the head moved in any epoch")
            raise ProofError(self.reasons[-1])

    def _row(self, name: str, entry: NetTensor, epoch: int, square: float) -> dict[str, Any]:
        before, start = self._before.get(name), self._loaded.get(name)
        return {
            "epoch": epoch,
            "tensor": name,
            "part": "encoder" if is_encoder_tensor(name) else "head",
            "requires_grad": entry.tensor.requires_grad,
            "grad_norm": square**0.5,
            "moved_in_epoch": before is None or not same_bits(before, entry.tensor),
            "change_since_load": None if start is None else _relative_change(start, entry.tensor),
            "kind": entry.kind,
        }

    def _never_trained(
        self, state: FitState, tensors: Mapping[str, NetTensor], epoch: int
    ) -> dict[str, torch.Tensor]:
        """Return, as loaded, the tensors that were frozen from the first epoch to this one."""
        frozen = set(self._loaded).intersection(tensors)
        for phase in self.schedule.phases:
            if phase.first_epoch <= epoch:
                frozen &= self.schedule.still_at(phase.first_epoch, tensors, state.never_frozen)
        return {name: self._loaded[name] for name in frozen}

    def _epoch_faults(self, state: FitState, tensors: Mapping[str, NetTensor]) -> list[str]:
        """Return what is wrong with the net rather than with one of its tensors."""
        end = f"in epoch {state.epoch + 1}"
        gone = [n for n in self._before if n not in tensors]
        return [f"tensor vanished: {n} {end}" for n in gone] + [
            f"frozen module ran in training mode: {path} {end}" for path in sorted(self._trained)
        ]

    def _require_kept(self) -> None:
        if self.reasons:
            raise ProofError(
                f"freeze schedule {self.schedule.name} was not carried out: {self.reasons[0]}"
            )

    def state(self) -> dict[str, Any]:
        """Return the rows of the epochs so far."""
        return {"schedule": self.schedule.to_dict(), "rows": self.rows}

    def load_state(self, values: Mapping[str, Any]) -> None:
        """Take the rows back; refuse those of another schedule."""
        stated = json.dumps(self.schedule.to_dict())
        if json.dumps(values["schedule"]) != stated:
            raise ProofError(
                f"the interrupted run followed schedule {values['schedule']['name']}",
                limit=f"{self.schedule.name}, the same phases",
                remedy="Begin anew without --resume",
            )
        self.rows = [
            {"kind": PARAMETER, "frozen": not row["requires_grad"], **row} for row in values["rows"]
        ]

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
                    "encoder_tensors_frozen": len({r["tensor"] for r in rows if _stood_still(r)}),
                    "encoder_tensors_moved": len(
                        {r["tensor"] for r in rows if r["moved_in_epoch"]}
                    ),
                    "encoder_buffers": len({r["tensor"] for r in rows if r["kind"] == BUFFER}),
                    "largest_change_since_load": max(
                        (c for r in rows if (c := r["change_since_load"]) is not None), default=0.0
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


def _stood_still(row: dict[str, Any]) -> bool:
    """Whether a tensor could not train: measured for a parameter, stated for a buffer."""
    return bool(row["frozen"] if row["kind"] == BUFFER else not row["requires_grad"])


def _copies(tensors: Mapping[str, NetTensor]) -> dict[str, torch.Tensor]:
    return {name: entry.tensor.detach().clone() for name, entry in tensors.items()}


def _relative_change(start: torch.Tensor, now: torch.Tensor) -> float | None:
    """Return ``|w - w0| / |w0|``; None where it is no number, or the shape is another."""
    if difference(start, now):
        return None
    if same_bits(start, now):
        return 0.0
    first, last = _in_floats(start), _in_floats(now.detach())
    norm = _norm(first) or _norm(last)
    change = _norm(last - first) / norm if norm else 0.0
    return change if math.isfinite(change) else None


def _in_floats(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose differences are exact enough: single precision stays as it is."""
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _norm(tensor: torch.Tensor) -> float:
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(tensor, dtype=wide))


def _faults(row: dict[str, Any], frozen: bool, stepped: bool) -> list[str]:
    where = f"{row['tensor']} in epoch {row['epoch'] + 1}"
    if frozen and row["moved_in_epoch"]:
        return [f"frozen tensor moved: {where}"]
    if row["kind"] == BUFFER:
        return []
    if frozen and row["requires_grad"]:
        return [f"frozen tensor has requires_grad set: {where}"]
    if frozen and stepped:
        return [f"the optimiser holds a frozen tensor: {where}"]
    if not frozen and not row["requires_grad"]:
        return [f"tensor stayed frozen: {where}"]
    if not frozen and not stepped:
        return [f"unfrozen tensor is not in the optimiser: {where}"]
    if not frozen and row["grad_norm"] == 0.0:
        return [f"no gradient in a whole epoch: {where}"]
    if not frozen and not row["moved_in_epoch"]:
        return [f"unfrozen tensor did not move: {where}"]
    return []


def _changes(row: dict[str, Any], entry: NetTensor, before: torch.Tensor | None) -> list[str]:
    """Return the faults of a tensor that is another one than before, and those of free buffers."""
    where = f"{row['tensor']} in epoch {row['epoch'] + 1}"
    if before is None and (row["frozen"] or entry.kind == PARAMETER):
        return [f"tensor appeared: {where}"]
    if before is not None and (words := difference(before, entry.tensor)) and row["frozen"]:
        return [f"frozen tensor is another one: {where}, {words}"]
    if entry.is_statistic and not row["frozen"] and not row["moved_in_epoch"]:
        return [f"unfrozen statistics did not move: {where}"]
    if before is not None and row["moved_in_epoch"] and not entry.is_saved and not row["frozen"]:
        return [f"buffer moved that no checkpoint keeps (persistent=False): {where}"]
    return []
