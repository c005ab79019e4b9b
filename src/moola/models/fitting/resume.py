"""What a fit is resumed from: its state on disk, one file replaced whole after every epoch.

A safetensors file: weights, the best weights so far, the optimiser's moments and the states of the
random generators are tensors; everything else is JSON in its header. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moola.errors import CheckpointError, ConfigError, one_line
from moola.hashing import atomic_file, sha256_json
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.early_stopping import EarlyStopping
from moola.models.weights.net_tensors import net_state, restore_net

_FORMAT = "moola-fit-1"


@dataclass(frozen=True, kw_only=True)
class StateFile:
    """Where a fit keeps its state, and whether to go on from what lies there.

    Parameters
    ----------
    path
        One ``.safetensors`` file.
    identity
        Digest of all that determines the fit; a state with another one is refused.
    resume
        Go on from the file if it exists; otherwise begin anew and replace it.
    """

    path: Path
    identity: str
    resume: bool = False


def path_of_state(folder: Path, kind: str, options: Mapping[str, Any]) -> Path:
    """Return where the state of a run with these options is kept; the device is none of them."""
    stated = {k: v for k, v in options.items() if k != "device"}
    return folder / f"{kind}-{sha256_json(stated)[:16]}.safetensors"


def find_state(path: Path) -> bool:
    """Return whether a state lies at `path`, a `path_of_state`.

    Raises ConfigError if none does, but a state of the same kind with other options: whoever
    resumes has that one in mind.
    """
    if path.exists():
        return True
    kind = path.stem.rpartition("-")[0]
    others = sorted(path.parent.glob(f"{kind}-*.safetensors"))
    if others:
        more = f", as are {len(others) - 1} more beside it" if others[1:] else ""
        raise ConfigError(
            f"{others[0]} is the state of another run{more}",
            limit=f"{path.name}, by these options",
            remedy="Resume with the options it was started with, or begin anew without --resume",
        )
    return False


def write_state(
    file: StateFile,
    state: FitState,
    stopping: EarlyStopping,
    *,
    order: torch.Generator,
    callbacks: Sequence[Callback],
) -> None:
    """Write the state after an epoch, whole or not at all."""
    names = {id(p): n for n, p in state.net.named_parameters()}
    tensors = {f"net/{k}": v for k, v in net_state(state.net).items()}
    tensors |= {f"best/{k}": v for k, v in (stopping.best_weights or {}).items()}
    for parameter, moments in state.optimizer.state.items():
        tensors |= {f"optimizer/{names[id(parameter)]}/{k}": v for k, v in moments.items()}
    tensors |= {"random/cpu": torch.get_rng_state(), "random/order": order.get_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    header = {
        "format": _FORMAT,
        "identity": file.identity,
        "epoch": state.epoch,
        "history": state.history,
        "kept_epoch": state.kept_epoch,
        "best_loss": stopping.best_loss,
        "since_best": stopping.since_best,
        "stopped": stopping.stopped,
        "callbacks": [callback.state() for callback in _with_state(callbacks)],
    }
    copied = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    with atomic_file(file.path) as temporary:
        save_file(copied, temporary, metadata={"state": json.dumps(header, allow_nan=False)})


def read_state(
    file: StateFile,
    state: FitState,
    *,
    order: torch.Generator,
    callbacks: Sequence[Callback],
) -> EarlyStopping | None:
    """Take up a state; None where there is none or none is asked for.

    Parameters
    ----------
    file
        Where it lies, and whose it must be.
    state
        Its net, optimiser and history are overwritten.
    order
        Generator of the batches, put where it was.
    callbacks
        Those that keep a state get it back.

    Returns
    -------
    EarlyStopping or None
        How far it was.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    ConfigError
        If it is another run's.
    """
    if not file.resume or not file.path.exists():
        return None
    header, tensors = _read(file.path)
    stateful = _with_state(callbacks)
    if header["identity"] != file.identity or len(header["callbacks"]) != len(stateful):
        raise ConfigError(
            f"{file.path} is the state of another run ({str(header['identity'])[:12]})",
            limit=f"this run's, {file.identity[:12]}: the same options, data and encoder",
            remedy="Resume with the options it was started with, or begin anew without --resume",
        )
    restore_net(state.net, _group(tensors, "net"))
    parameters = dict(state.net.named_parameters())
    for key, value in _group(tensors, "optimizer").items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        device = "cpu" if moment == "step" else parameter.device
        state.optimizer.state[parameter][moment] = value.to(device)
    torch.set_rng_state(tensors["random/cpu"])
    order.set_state(tensors["random/order"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
    state.history[:] = header["history"]
    state.kept_epoch, state.resumed_at = header["kept_epoch"], header["epoch"] + 1
    for callback, values in zip(stateful, header["callbacks"], strict=True):
        callback.load_state(values)
    return EarlyStopping(
        best_loss=header["best_loss"],
        best_weights=_group(tensors, "best") or None,
        since_best=header["since_best"],
        stopped=header["stopped"],
    )


def _with_state(callbacks: Sequence[Callback]) -> list[Callback]:
    return [c for c in callbacks if type(c).state is not Callback.state]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {})["state"])
            tensors = {k: handle.get_tensor(k) for k in handle.keys()}  # noqa: SIM118
        if header["format"] != _FORMAT:
            raise ValueError(header["format"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not the state of a run: {one_line(error)}",
            limit=f"a file of format {_FORMAT}",
            remedy="Begin anew without --resume",
        ) from None
    return header, tensors


def _group(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
