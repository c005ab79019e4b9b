"""The lines of docs/notes.md run: commands, imports, and every encoder into every model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from job_kit import SHORT, short_project
from mlflow import MlflowClient

import moola
from moola.cli.app import _run
from moola.config.data import SplitRecipe, WindowRecipe
from moola.errors import CheckpointError, DeviceError
from moola.models import EnhancedSimpleLSTMModel, SimpleLSTMModel
from moola.models.fitting.callbacks import Callback, FitState
from moola.pretraining import MaskedLSTMPretrainer
from moola.pretraining.stored_encoder import encoder_digest, encoder_folder
from moola.training.stored_config import read_stored

SMALL = ["--epochs", "1", "--batch-size", "64", "--device", "cpu"]
SPLIT = "splits/forward.json"
TRAIN = f"--dataset labeled_windows/v1 --split {SPLIT} --epochs 2 --unfreeze-after 1 --patience 0"
ENCODERS = {  # kind and size: the command that makes it, units per direction, layers
    "bilstm 12 x 1": ("pretrain-bilstm --hidden-dim 12 --num-layers 1", 12, 1),
    "bilstm 8 x 2": ("pretrain-bilstm --hidden-dim 8 --num-layers 2", 8, 2),
    "multitask 10 x 1": ("pretrain-multitask --hidden-dim 10 --num-layers 1", 10, 1),
    "ts2vec": ("pretrain-ts2vec --hidden-dim 8 --output-dim 16 --depth 2", 0, 0),
}


def moola_(line: str, *more: str) -> int:
    return _run([*line.split(), *more])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[Path]:
    """A project with short windows and one small encoder of each kind, as ``.pt``."""
    folder = tmp_path_factory.mktemp("notes")
    registry = short_project(folder, template_db)
    until = WindowRecipe(**{**SHORT, "label": "none", "horizon_bars": 0}, end="2017-05-01")
    registry.build_set("unlabeled_windows/v1", until)
    registry.build_split("forward", SplitRecipe(labeled="labeled_windows/v1"))
    before = Path.cwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    for name, (command, *_) in ENCODERS.items():
        assert moola_(command, *SMALL, "--output", f"enc/{name}.pt") == 0
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def windows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    close = 100 * np.exp(0.001 * rng.normal(size=(40, 24)).cumsum(axis=1))
    return np.stack([close, close + 0.1, close - 0.1, close], axis=2), np.arange(40) % 2


def newest() -> tuple[str, dict]:
    client = MlflowClient()
    versions = client.search_model_versions("name='EnhancedSimpleLSTM'")
    version = max(versions, key=lambda v: int(v.version))
    folder = client.get_model_version_download_uri(version.name, version.version)
    config = next(Path(folder.removeprefix("file://")).rglob("config.json")).read_bytes()
    return str(version.version), dict(read_stored(config).params)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_pt_is_the_folder_in_one_plain_dict(project: Path, name: str) -> None:
    file = Path("enc") / f"{name}.pt"
    content = torch.load(file, weights_only=True)
    assert content["corpus"]["name"] == "unlabeled_windows/v1"
    assert set(content["encoder_state_dict"]) <= {
        k.removeprefix("encoder.").removeprefix("encoder_lstm.")
        for k in content["model_state_dict"]
    }
    unpacked = encoder_folder(file, project / "cache")
    assert encoder_digest(unpacked) == encoder_digest(file.with_suffix(""))
    assert encoder_folder(file.with_suffix(""), project / "cache") == file.with_suffix("")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("enhanced_simple_lstm", "bilstm 8 x 2"),
        ("enhanced_simple_lstm", "multitask 10 x 1"),
        ("simple_lstm", "bilstm 8 x 2"),
        ("adapter_lstm", "ts2vec"),
        *(
            pytest.param(model, name, marks=pytest.mark.slow)
            for model, name in (
                ("enhanced_simple_lstm", "bilstm 12 x 1"),
                ("simple_lstm", "bilstm 12 x 1"),
                ("simple_lstm", "multitask 10 x 1"),
            )
        ),
    ],
)
def test_an_encoder_trains_the_model_that_takes_it(project: Path, model: str, name: str) -> None:
    encoder = f"enc/{name}.pt"
    words = f"train --model {model} {TRAIN} --freeze-encoder --log-pretrained-stats true"
    assert moola_(words, "--pretrained-encoder", encoder) == 0
    _, params = newest()
    _, hidden, layers = ENCODERS[name]
    if model == "adapter_lstm":
        assert params["encoder_output"] == 16
    else:
        one_way = model == "simple_lstm"
        assert (params["hidden_size"], params["num_layers"]) == (hidden, 1 if one_way else layers)


@pytest.mark.parametrize(
    ("model", "name", "words", "said"),
    [
        ("enhanced_simple_lstm", "ts2vec", "", "is no LSTM.*Use --model adapter_lstm"),
        ("simple_lstm", "ts2vec", "", "is no LSTM"),
        ("adapter_lstm", "bilstm 8 x 2", "", "expected a TS2Vec encoder"),
        ("adapter_lstm", "ts2vec", "--hidden-size 4", "takes no hidden_size"),
        ("enhanced_simple_lstm", "bilstm 8 x 2", "--hidden-size 16", "Leave out --hidden-size"),
        ("simple_lstm", "bilstm 8 x 2", "--num-heads 2", "takes no num_heads"),
        ("enhanced_simple_lstm", "bilstm 8 x 2", "--num-heads 3", "a divisor of 16"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    project: Path,
    model: str,
    name: str,
    words: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"train --model {model} {TRAIN} {words}"
    assert moola_(line, "--pretrained-encoder", f"enc/{name}.pt") == 2
    (sentence,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("moola: ")]
    assert re.search(said, sentence)


def test_sizes_without_an_encoder(project: Path) -> None:
    assert moola_(f"train {TRAIN} --hidden-size 20 --num-layers 1 --num-heads 4 --augment") == 0
    version, params = newest()
    assert [params[k] for k in ("hidden_size", "num_layers", "num_heads")] == [20, 1, 4]
    assert params["use_temporal_aug"] is True
    assert moola_(f"train --model simple_lstm {TRAIN} --augment false") == 0
    _, simple = newest()
    assert (simple["hidden_size"], simple["num_layers"]) == (32, 1)
    assert simple["use_temporal_aug"] is False
    assert moola_("evaluate --model enhanced_simple_lstm --gate 0 --seeds 17") == 0
    runs = MlflowClient().search_runs(
        [MlflowClient().get_experiment_by_name("moola-gates").experiment_id],
        "params.candidate != ''",
    )
    assert f"EnhancedSimpleLSTM/{version}" in {r.data.params.get("candidate") for r in runs}
    assert moola_(f"evaluate --model simple_lstm --version {version} --gate 0") == 2


def test_a_synthetic_set_is_trained_on_and_judged(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moola_(f"data synth half --split {SPLIT} --ratio 0.3") == 0
    assert moola_(f"train {TRAIN} --augment --synthetic synthetic_cache/half --hidden-size 8") == 0
    assert "temporal, synthetic_cache/half" in capsys.readouterr().out
    version, _ = newest()
    client = MlflowClient()
    run_id = client.get_model_version("EnhancedSimpleLSTM", version).run_id
    trail = mlflow.artifacts.load_dict(f"runs:/{run_id}/audit/audit_trail.json")
    assert trail["synthetic_applied"] == "synthetic_cache/half"
    assert trail["synthetic_ratio"] == pytest.approx(0.3, abs=0.01)
    assert moola_(f"evaluate --version {version} --gate 5 --seeds 17") == 0
    said = capsys.readouterr().out
    assert "against the same without augmentation" in " ".join(said.split())
    before = len(client.search_model_versions("name='EnhancedSimpleLSTM'"))
    assert moola_(f"train {TRAIN} --synthetic absent") == 2
    assert "synthetic_cache/absent does not exist" in capsys.readouterr().err
    assert len(client.search_model_versions("name='EnhancedSimpleLSTM'")) == before


@pytest.mark.usefixtures("gates_as_before")
def test_a_gate_is_added_by_the_one_entry_that_the_architecture_shows(
    project: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moola_(f"train {TRAIN} --hidden-size 8") == 0
    version, _ = newest()
    assert moola_(f"evaluate --version {version} --gate 8 --seeds 17") == 2
    assert "gates is 8; expected one of 0, 1, 2, 3, 4, 5, 6, 7" in capsys.readouterr().err
    text = (repository / "ARCHITECTURE.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "@gate(8" in b)
    exec(block, {"np": np, "rng": np.random.default_rng(0)})
    assert moola_(f"evaluate --version {version} --gate 8 --seeds 17 --seeds 17,18") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 seeds" in said
    assert "another seed changes the answer on" in said
    runs = MlflowClient().search_runs(
        [MlflowClient().get_experiment_by_name("moola-gates").experiment_id],
        "tags.`moola.gate` = '8'",
    )
    assert "share_changed" in runs[0].data.metrics
    report = mlflow.artifacts.load_dict(
        f"runs:/{runs[0].data.tags['mlflow.parentRunId']}/gate_report.json"
    )
    assert [g["name"] for g in report["gates"]] == ["seeds"]


class Seen(Callback):
    """Whether the encoder still is what was stored, at the end of each epoch."""

    def __init__(self, stored: dict[str, torch.Tensor]):
        self.stored, self.equal = stored, []

    def on_epoch_end(self, state: FitState) -> None:
        own = state.net.encoder.state_dict()
        self.equal.append(all(torch.equal(own[k], self.stored[k]) for k in own))


def test_a_model_is_fitted_from_an_encoder(
    tmp_path: Path, windows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = windows
    file = tmp_path / "encoder.pt"
    pretrainer = MaskedLSTMPretrainer(hidden_dim=6, num_layers=1, device="cpu", batch_size=32)
    assert pretrainer.pretrain(X, n_epochs=1, save_path=file).history
    sizes = {"hidden_size": 6, "num_layers": 1, "n_epochs": 3, "device": "cpu"}
    fit = {"pretrained_encoder_path": file, "freeze_encoder": True}
    stored = torch.load(file, weights_only=True)["encoder_state_dict"]
    for kind in (EnhancedSimpleLSTMModel, SimpleLSTMModel):
        seen = Seen(stored)
        model = kind(**sizes).fit(X, y, **fit, unfreeze_encoder_after=2, callbacks=[seen])
        assert seen.equal == [True, True, False]
        assert model.load_report_["num_mismatched"] == 0
        seen = Seen(stored)
        kind(**sizes).fit(X, y, **fit, unfreeze_encoder_after=0, callbacks=[seen])
        assert seen.equal == [False] * 3

        again = kind(**sizes).fit(X, y)
        report = again.load_pretrained_encoder(encoder_path=file, freeze_encoder=True)
        assert report["match_ratio_encoder"] == 1.0
        seen = Seen(stored)
        again.fit(X, y, unfreeze_encoder_after=1, callbacks=[seen])
        assert seen.equal == [True, False, False]
    with pytest.raises(CheckpointError, match="another shape"):
        EnhancedSimpleLSTMModel(hidden_size=7, num_layers=1).fit(X, y, **fit)
    report = moola.report_state_dict_load(again.net_, file, freeze_encoder=True)
    assert report["frozen_tensors"] == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_a_gpu_that_is_not_there_is_said_as_the_commands_say_it(
    windows: tuple[np.ndarray, np.ndarray],
) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=r"torch finds no GPU here.*Use --device cpu"):
            SimpleLSTMModel(device=device).fit(*windows)


def test_metrics_by_their_names() -> None:
    class Data:
        y_test = np.array([0, 1, 1, 0])

    proba = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]])
    pack = moola.compute_metrics_pack({"y_pred_proba_test": proba, "y_pred_test": None}, Data())
    assert pack["accuracy"] == 1.0
    assert pack["brier"] == pytest.approx(np.mean([0.08, 0.32, 0.18, 0.32]))
    assert moola.compute_ece(Data.y_test, proba) == pack["ece"]
    with pytest.raises(ValueError, match="results hold nothing"):
        moola.compute_metrics_pack({}, Data())
