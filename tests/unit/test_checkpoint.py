"""Checkpoints: read back with their digest; pickled code, NaN and broken files are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import encoder_tensors
from safetensors.torch import save_file

from moola.errors import CheckpointError
from moola.hashing import sha256_file
from moola.models.controls.classical import LogisticFeaturesModel
from moola.models.controls.trees import XGBoostModel
from moola.models.weights.checkpoint import read_checkpoint, read_config, save_checkpoint


class Payload:
    """Pickled, it asks the reader to run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("__import__('pathlib').Path('ran').write_text('x')",))


def test_what_is_saved_is_read_back_with_its_digest(tmp_path: Path) -> None:
    tensors = encoder_tensors()
    digest = save_checkpoint(tmp_path / "c", tensors, {"kind": "test"})
    back = read_checkpoint(tmp_path / "c")
    assert all(torch.equal(back.tensors[k], v) for k, v in tensors.items())
    assert back.config == {"kind": "test", "weights_sha256": digest}
    assert back.sha256 == digest == sha256_file(tmp_path / "c" / "model.safetensors")
    assert back.form == "folder"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"a": torch.ones(2)}, {"n": 1})
    save_checkpoint(tmp_path / "c", {"b": torch.zeros(2)}, {"n": 2})
    back = read_checkpoint(tmp_path / "c")
    assert list(back.tensors) == ["b"]
    assert back.config["n"] == 2


def test_nan_is_neither_written_nor_does_it_replace_what_stands(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"a": torch.ones(2)}, {})
    with pytest.raises(CheckpointError, match="tensor a holds NaN or infinity"):
        save_checkpoint(tmp_path / "c", {"a": torch.tensor([1.0, float("nan")])}, {})
    assert read_checkpoint(tmp_path / "c").tensors["a"].tolist() == [1.0, 1.0]


def test_weights_changed_behind_their_configuration_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"a": torch.ones(2)}, {})
    save_file({"a": torch.zeros(2)}, tmp_path / "c" / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_checkpoint(tmp_path / "c")


def test_pickled_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": encoder_tensors(), "hook": Payload()}, "evil.pt")
    with pytest.raises(CheckpointError, match="holds pickled code; expected tensors only"):
        read_checkpoint(Path("evil.pt"))
    assert not Path("ran").exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="holds pickled code"):
        read_checkpoint(tmp_path / "whole.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.pt", b"hello"),
        ("empty.pt", b""),
        ("zip.pt", b"PK\x03\x04 and no archive"),
        ("bytes.pt", bytes(range(256)) * 4),
        ("text.safetensors", b"hello"),
        ("empty.safetensors", b""),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a") as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    torch.save(encoder_tensors(), tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds list; expected a dict of tensors"),
        (
            {"epoch": 3, "model": {"w": torch.ones(2)}},
            r"holds no tensors \(it holds epoch, model\)",
        ),
        ({}, r"holds no tensors \(it holds nothing\)"),
        ({"state_dict": {"w": torch.tensor([float("nan")])}}, "tensor w holds NaN or infinity"),
        ({"w": torch.ones(2, 2).to_sparse()}, "tensor w is sparse or quantised"),
        ({"w": torch.tensor([complex("nan")])}, "tensor w holds NaN or infinity"),
    ],
)
def test_contents_that_cannot_be_loaded(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "c.pt")


def test_what_stands_beside_the_state_dict_is_its_configuration(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt").config == {"epoch": 3}


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"expected a folder with model\.safetensors"):
        read_checkpoint(tmp_path / "empty")
    assert read_config(tmp_path / "empty") == {}
    for text, message in (("{", "cannot be read"), ("[1]", "holds list; expected an object")):
        (tmp_path / "empty" / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_config(tmp_path / "empty")
    save_file({"w": torch.ones(2)}, tmp_path / "empty" / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds list"):
        read_checkpoint(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"kind": "x"}))
    assert read_checkpoint(tmp_path / "empty").config == {"kind": "x"}


def test_an_error_without_words_still_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: Any, *_: object) -> None:
        raise ValueError

    X, y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2
    LogisticFeaturesModel().fit(X, y).save(tmp_path / "c")
    monkeypatch.setattr(LogisticFeaturesModel, "_take", silent)
    with pytest.raises(CheckpointError, match=r"is not a logreg checkpoint: ValueError\.$"):
        LogisticFeaturesModel.load(tmp_path / "c")


def test_stored_trees_answer_without_the_package_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stumps: below 1/2 of feature 1 the first class gains a logit of 1."""
    state = {"window_bars": None, "num_features": 2, "num_nodes": 6, "num_trees": 2}
    config = {"params": {"num_trees": 1}, "classes": [0, 1], "state": state}
    one = torch.ones((), dtype=torch.float64)
    arrays = {
        "feature": torch.tensor([1, -1, -1] * 2),
        "threshold": torch.tensor([0.5, 0, 0] * 2).double(),
        "left": torch.tensor([1, -1, -1, 4, -1, -1]),
        "right": torch.tensor([2, -1, -1, 5, -1, -1]),
        "value": torch.zeros((6, 2)).double().index_put((torch.tensor(1), torch.tensor(0)), one),
        "roots": torch.tensor([0, 3]),
        "start": torch.zeros(2).double(),
    }
    save_checkpoint(tmp_path / "c", arrays, config)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    answers = XGBoostModel.load(tmp_path / "c").predict_proba(np.array([[9, 0.5], [9, 0.6]]))
    e = np.e
    assert answers == pytest.approx(np.array([[e / (1 + e), 1 / (1 + e)], [0.5, 0.5]]))
