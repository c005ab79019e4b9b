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

from moola.errors import CheckpointError, CheckpointNotFound, one_line
from moola.hashing import atomic_folder, sha256_file, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_CODE_SIGNS = ("Unsupported global", "Unsupported class", "Trying to")
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
    """Write a checkpoint folder, whole or not at all, replacing what was there.

    Parameters
    ----------
    folder
        Gets ``model.safetensors`` and ``config.json``.
    tensors
        By name, on any device.
    config
        JSON-ready; the digest of the weights is added.

    Returns
    -------
    SHA-256 of the weights file.

    Raises
    ------
    CheckpointError
        If a tensor holds NaN or infinity; nothing is written.
    """
    _require_finite(str(folder), tensors)
    with atomic_folder(Path(folder), overwrite=True) as temporary:
        weights = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(weights, temporary / WEIGHTS)
        digest = sha256_file(temporary / WEIGHTS)
        write_json(temporary / CONFIG, {**config, "weights_sha256": digest})
    return digest


def _require_finite(where: str, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"{where}: tensor {name} is sparse or quantised", limit="dense numbers"
            )
        number = tensor.is_floating_point() or tensor.is_complex()
        if number and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{where}: tensor {name} holds NaN or infinity", limit="finite numbers"
            )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, a ``.safetensors`` file or a ``.pt`` file.

    Accepted ``.pt`` contents: a dict with ``model_state_dict``, ``state_dict`` or
    ``encoder_state_dict``, or a state dict itself.

    Parameters
    ----------
    path
        A folder or a file.

    Returns
    -------
    Checkpoint
        Tensors on the CPU, all finite.

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
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{Path(folder) / CONFIG} holds {type(values).__name__}", limit="an object"
        )
    return values


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
    except pickle.UnpicklingError as error:
        if not any(sign in str(error) for sign in _CODE_SIGNS):
            raise _no_checkpoint(path, error) from None
        raise CheckpointError(
            f"{path} holds pickled code",
            limit="tensors only",
            remedy="Export its state dict to safetensors where you trust it",
        ) from None
    except Exception as error:  # what a damaged file makes the reader raise is not foreseeable
        raise _no_checkpoint(path, error) from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}", limit="a dict of tensors")
    form = next((f for f in _WRAPPED_FORMS if isinstance(loaded.get(f), Mapping)), "direct")
    tensors = loaded if form == "direct" else loaded[form]
    about = {k: v for k, v in loaded.items() if k not in _WRAPPED_FORMS}
    config = {} if form == "direct" else about
    return _checked(path, tensors, config, form)


def _no_checkpoint(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a checkpoint: {one_line(error, limit=120)}",
        limit="a file that torch.save or safetensors wrote",
    )


def _checked(
    path: Path, tensors: Mapping[Any, Any], config: Mapping[str, Any], form: str
) -> Checkpoint:
    named = {str(k): v for k, v in tensors.items() if isinstance(v, torch.Tensor)}
    if not named:
        keys = ", ".join(str(k) for k in list(tensors)[:5]) or "nothing"
        raise CheckpointError(
            f"{path} holds no tensors (it holds {keys})",
            limit=f"a dict of tensors, by itself or under {', '.join(_WRAPPED_FORMS)}",
        )
    _require_finite(str(path), named)
    return Checkpoint(tensors=named, config=config, sha256=sha256_file(path), form=form)
