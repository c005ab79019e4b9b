"""Checkpoints: ``model.safetensors`` + ``config.json`` in one folder, and the older ``.pt`` forms.

No pickle is ever written. ``.pt`` files are read with ``weights_only=True``, which refuses any
code in them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moola.errors import CheckpointError, CheckpointNotFound
from moola.hashing import atomic_folder, sha256_file, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_WRAPPED_FORMS = ("model_state_dict", "state_dict", "encoder_state_dict")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors as stored, the configuration beside them, and the digest of the weights file."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    sha256: str
    form: str


def save_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> str:
    """Write a checkpoint folder, whole or not at all, replacing what stood there.

    Returns
    -------
    SHA-256 of the weights file.
    """
    with atomic_folder(Path(folder), overwrite=True) as temporary:
        weights = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(weights, temporary / WEIGHTS)
        digest = sha256_file(temporary / WEIGHTS)
        write_json(temporary / CONFIG, {**config, "weights_sha256": digest})
    return digest


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, a ``.safetensors`` file or a ``.pt`` file.

    Accepted ``.pt`` contents: a dict with ``model_state_dict``, ``state_dict`` or
    ``encoder_state_dict``, or a state dict itself.

    Raises
    ------
    CheckpointNotFound
        If the path does not exist; the message lists what lies beside it.
    CheckpointError
        If it is not a checkpoint, holds pickled code, a NaN, or weights that its own configuration
        does not vouch for.
    """
    path = Path(path)
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("[!.]*")) if path.parent.is_dir() else []
        raise CheckpointNotFound(
            f"checkpoint {path} does not exist",
            remedy=f"{path.parent} holds: {', '.join(near) or 'nothing'}; "
            "make an encoder with `moola pretrain-bilstm`",
        )
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _checked(path, _load_safetensors(path), {}, "safetensors")
    return _read_torch(path)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a checkpoint folder; {} where there is none."""
    try:
        values = json.loads((Path(folder) / CONFIG).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{Path(folder) / CONFIG} cannot be read: {error}") from None
    return values if isinstance(values, dict) else {}


def _read_folder(folder: Path) -> Checkpoint:
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} is not a checkpoint", limit=f"a folder with {WEIGHTS}")
    config = read_config(folder)
    checkpoint = _checked(folder / WEIGHTS, _load_safetensors(folder / WEIGHTS), config, "folder")
    stated = config.get("weights_sha256")
    if stated is not None and stated != checkpoint.sha256:
        raise CheckpointError(
            f"{folder}: weights have SHA-256 {checkpoint.sha256[:12]}",
            limit=f"{str(stated)[:12]}, as {CONFIG} states",
            remedy="The checkpoint was changed after it was written; make it again",
        )
    return checkpoint


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def _read_torch(path: Path) -> Checkpoint:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds pickled code or is not a checkpoint",
            limit="tensors only",
            remedy="Export its state dict to safetensors where you trust it",
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}", limit="a dict of tensors")
    form = next((f for f in _WRAPPED_FORMS if isinstance(loaded.get(f), Mapping)), "direct")
    tensors = loaded if form == "direct" else loaded[form]
    config = {k: v for k, v in loaded.items() if form != "direct" and k != form}
    return _checked(path, tensors, config, form)


def _checked(
    path: Path, tensors: Mapping[Any, Any], config: Mapping[str, Any], form: str
) -> Checkpoint:
    named = {str(k): v for k, v in tensors.items() if isinstance(v, torch.Tensor)}
    if not named:
        raise CheckpointError(f"{path} holds no tensors", limit="a dict of tensors")
    for name, tensor in named.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity")
    return Checkpoint(tensors=named, config=config, sha256=sha256_file(path), form=form)
