"""An encoder that a version started from is held against what Moola's pretraining writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moola.config.pretraining import PretrainConfig
from moola.errors import CheckpointError
from moola.hashing import pretty_json, sha256_file
from moola.models.weights.checkpoint import save_checkpoint
from moola.pretraining.kinds import KINDS, build_pretrained
from moola.pretraining.stored_encoder import check_stored_encoder, encoder_digest

CORPUS = {
    "name": "unlabeled_windows/v1",
    "sha256": "1" * 64,
    "source": "walk",
    "source_sha256": "2" * 64,
    "first_bar": "2020-01-01T00:00:00",
    "last_bar": "2020-02-01T00:00:00",
}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """Return a small encoder's folder, as `moola pretrain-bilstm` writes it."""
    config = PretrainConfig(hidden_dim=8, num_layers=1, epochs=1)
    values: dict[str, Any] = {
        "kind": KINDS[PretrainConfig].name,
        "shape": config.encoder_shape(),
        "pretraining": config.to_dict(),
        "corpus": CORPUS,
        "kept_epoch": 0,
    }
    folder = tmp_path / "encoder"
    save_checkpoint(folder, build_pretrained(values).state_dict(), values)
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    edit(values)
    (folder / "config.json").write_text(pretty_json(values))


def test_an_honest_encoder_passes_and_its_digest_is_of_both_files(encoder: Path) -> None:
    check_stored_encoder(encoder)
    before = encoder_digest(encoder)
    change(encoder, lambda v: v["corpus"].update(source="other"))
    check_stored_encoder(encoder)
    assert encoder_digest(encoder) != before


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda v: v.update(more=1), "1 unknown key"),
        (lambda v: v.pop("corpus"), "lacks corpus"),
        (lambda v: v.update(kind="os.system"), "kind is 'os.system'"),
        (lambda v: v.update(kind=["a"]), "kind is a value of type list"),
        (lambda v: v["shape"].update(num_layers=20_000), "shape is another"),
        (lambda v: v["pretraining"].update(hidden_dim=10**6), "hidden_dim is 1000000"),
        (lambda v: v["pretraining"].update(num_layers=20_000), "num_layers is 20000"),
        (lambda v: v["pretraining"].update(num_layers=True), "num_layers is True"),
        (lambda v: v["pretraining"].update(val_split=1e300), "val_split is 1e"),
        (lambda v: v["pretraining"].update(unlabeled="a\x1b[2J"), r"unlabeled is 'a\\x1b\[2J'"),
        (lambda v: v["corpus"].update(name="../../root"), "corpus.name is '../../root'"),
        (lambda v: v["corpus"].update(source="/root"), "corpus.source is '/root'"),
        (lambda v: v.update(kept_epoch=-1), "kept_epoch is -1"),
        (lambda v: v.update(weights_sha256="0" * 64), "another SHA-256"),
    ],
)
def test_another_configuration_is_refused(
    encoder: Path, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    change(encoder, edit)
    with pytest.raises(CheckpointError, match=said):
        check_stored_encoder(encoder)


def test_other_tensors_and_other_json_are_refused(encoder: Path) -> None:
    weights = encoder / "model.safetensors"
    save_file({**load_file(weights), "more": torch.zeros(3)}, weights)
    change(encoder, lambda v: v.update(weights_sha256=sha256_file(weights)))
    with pytest.raises(CheckpointError, match="1 are unknown, 'more' the first"):
        check_stored_encoder(encoder)
    (encoder / "config.json").write_text("[" * 50_000)
    with pytest.raises(CheckpointError, match="not written as Moola writes it"):
        check_stored_encoder(encoder)
