"""An encoder that a version started from: as much a stranger's data as the version itself."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from moola.config.pretraining import CorpusConfig
from moola.data.audit.trail import CorpusClaim
from moola.errors import CheckpointError, ConfigError
from moola.hashing import sha256_file, sha256_files, sha256_json
from moola.models.weights.checkpoint import read_checkpoint, save_checkpoint
from moola.pretraining.kinds import KINDS, build_pretrained
from moola.training import stored_fields as fields
from moola.training.stored_fields import MOST_EPOCHS
from moola.training.stored_tensors import check_header, layout_of_net

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ENCODER_FILES = {CONFIG: 64 << 10, WEIGHTS: 256 << 20}
_ORDER = ("kind", "shape", "pretraining", "corpus", "kept_epoch")
_KEYS = {*_ORDER, "weights_sha256"}
_MOST = {"hidden_dim": 1024, "num_layers": 8, "output_dim": 4096, "depth": 14,
         "horizon_bars": 4096, "patch_size": 4096}  # fmt: skip


def encoder_digest(folder: Path) -> str:
    """Return the SHA-256 over both files of an encoder's checkpoint."""
    return sha256_json(sha256_files(folder, list(ENCODER_FILES)))


def encoder_folder(path: Path, cache: Path) -> Path:
    """Return the checkpoint folder of an encoder; a ``.pt`` file of Moola's is unpacked into one.

    Parameters
    ----------
    path
        A folder, or a ``.pt`` file that ``moola pretrain-bilstm --output x.pt`` and its kin wrote.
    cache
        Folder for what is unpacked, each under its digest.

    Returns
    -------
    Path
        The folder; `path` itself where it is no ``.pt`` file that says what it is.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint.
    """
    if path.is_dir() or path.suffix != ".pt":
        return path
    checkpoint = read_checkpoint(path)
    if not set(checkpoint.config) >= _KEYS - {"weights_sha256"}:
        return path
    folder = cache / checkpoint.sha256[:32] / path.stem
    if not folder.is_dir():
        values = {k: checkpoint.config[k] for k in _ORDER}
        save_checkpoint(folder, checkpoint.tensors, values)
    return folder


def check_stored_encoder(folder: Path) -> None:
    """Check that a folder holds what Moola's pretraining writes, before a net is built of it.

    Parameters
    ----------
    folder
        A private copy of ``config.json`` and ``model.safetensors``, no larger than
        `ENCODER_FILES` allows.

    Raises
    ------
    CheckpointError
        If a key, type, size or tensor is another than Moola writes for the pretraining it states.
    """
    values = fields.exact("config.json", fields.parsed((folder / CONFIG).read_bytes()), _KEYS)
    classes = {kind.name: config for config, kind in KINDS.items()}
    if not isinstance(values["kind"], str) or values["kind"] not in classes:
        raise fields.wrong("kind", values["kind"], f"one of {', '.join(classes)}")
    config = _pretraining(values["pretraining"], classes[values["kind"]])
    if values["shape"] != config.encoder_shape():  # type: ignore[attr-defined]
        raise CheckpointError("shape is another than pretraining states")
    corpus = fields.exact("corpus", values["corpus"], set(CorpusClaim.__dataclass_fields__))
    for name, value in corpus.items():
        fields.text(f"corpus.{name}", value)
    fields.bare("corpus.name", str(corpus["name"]).removeprefix("unlabeled_windows/"))
    fields.bare("corpus.source", corpus["source"])
    fields.whole("kept_epoch", values["kept_epoch"], 0, MOST_EPOCHS)
    with torch.device("meta"):
        net = build_pretrained(values)
    weights = folder / WEIGHTS
    with weights.open("rb") as file:
        check_header(file, os.fstat(file.fileno()).st_size, layout_of_net(net))
    stated = fields.digest("weights_sha256", values["weights_sha256"])
    if sha256_file(weights) != stated:
        raise CheckpointError("model.safetensors has another SHA-256 than config.json states")


def _pretraining(values: object, kind: type) -> CorpusConfig:
    options = fields.exact("pretraining", values, set(kind.__dataclass_fields__))  # type: ignore[attr-defined]
    fields.check_types("pretraining", options, kind)
    for name, most in _MOST.items():
        if name in options:
            fields.whole(f"pretraining.{name}", options[name], 1, most)
    try:
        config: CorpusConfig = kind.from_mapping(options)  # type: ignore[attr-defined]
    except ConfigError as error:
        raise CheckpointError(f"pretraining: {error.problem}", limit=error.limit) from None
    return config
