"""Pretraining runs: what they log, write and take up again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from moola.config import names
from moola.config.pretraining import MultitaskConfig, PretrainConfig, TS2VecConfig
from moola.errors import ConfigError
from moola.judging.progress import NO_STATE
from moola.models.weights.checkpoint import read_checkpoint, read_config
from moola.steps.pretrain import pretrain

MASKED = PretrainConfig(
    hidden_dim=4, num_layers=1, epochs=2, batch_size=64, windows_per_epoch=128, device="cpu",
    sampling="offsets", reconstruct="bridge", augment=True, num_augmentations=1,
)  # fmt: skip
TS2VEC = TS2VecConfig(
    hidden_dim=4, output_dim=6, depth=2, epochs=1, windows_per_epoch=32, device="cpu"
)
MULTITASK = MultitaskConfig(
    hidden_dim=4, num_layers=1, epochs=1, batch_size=64, windows_per_epoch=128, device="cpu"
)


def artifacts(client: MlflowClient, run_id: str, path: str = "") -> set[str]:
    found = client.list_artifacts(run_id, path or None)
    files = {f.path for f in found if not f.is_dir}
    return files.union(*(artifacts(client, run_id, f.path) for f in found if f.is_dir))


def test_a_masked_run_logs_what_it_saw_and_learned(project: Path) -> None:
    output = Path("artifacts/pretrained/encoder.pt")
    summary = pretrain(MASKED, output=output)
    client = MlflowClient()
    run = client.get_run(summary.run_id)
    files = artifacts(client, summary.run_id)
    assert {
        "encoder/model.safetensors", "encoder/config.json", "plots/reconstruction.png",
        "plots/loss_curves.png", "plots/embedding_spectrum.png", "quality/masked_error.json",
        "manifest.json", "audit/audit_trail.json",
    } <= files  # fmt: skip
    assert len(client.get_metric_history(summary.run_id, "val_recon")) == 2
    for name in ("masked_delta_low", "masked_linear", "effective_rank", "latent_std_min"):
        assert name in run.data.metrics
    local = client.download_artifacts(summary.run_id, "manifest.json")
    manifest = json.loads(Path(local).read_text())
    assert manifest["augmentation"]["jitter_sigma"] == 0.05
    assert manifest["config"]["reconstruct"] == "bridge"

    folder = output.with_suffix("")
    assert read_config(folder)["kind"] == "bilstm_masked_autoencoder"
    exported = torch.load(output, weights_only=True)
    assert exported["hyperparams"]["hidden_dim"] == 4
    named = read_checkpoint(folder).tensors
    for name, value in exported["encoder_state_dict"].items():
        assert torch.equal(value, named[f"encoder.{name}"])


def test_a_stopped_run_is_taken_up_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(task: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(MASKED, progress=stop)
    (state,) = Path(names.RESUME_FOLDER).iterdir()
    with pytest.raises(ConfigError, match=f"{state.name} is the state of another run"):
        pretrain(replace(MASKED, seed=18), resume=True)
    summary = pretrain(MASKED, resume=True)
    assert summary.result.resumed_at == 1
    assert not state.exists()
    client = MlflowClient()
    experiment = client.get_run(summary.run_id).info.experiment_id
    ended = [run.info.status for run in client.search_runs([experiment])]
    assert sorted(ended) == ["FINISHED", "KILLED"]


@pytest.mark.parametrize(("config", "kind"), [(TS2VEC, "ts2vec"), (MULTITASK, "multitask_bilstm")])
def test_the_other_kinds(project: Path, config: TS2VecConfig, kind: str) -> None:
    told = []
    summary = pretrain(
        config,
        output=Path("encoder"),
        resume=True,
        progress=lambda *told_now: told.append(told_now),
    )
    assert told[0] == NO_STATE  # none lies there: it begins, and says so
    assert read_config(Path("encoder"))["kind"] == kind
    run = MlflowClient().get_run(summary.run_id)
    assert {"best_val_loss", "effective_rank"} <= set(run.data.metrics)
    with pytest.raises(ConfigError, match="nowhere"):
        pretrain(config.from_mapping({**config.to_dict(), "device": "nowhere"}))
