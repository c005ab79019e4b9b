"""Pretrain, fine-tune, evaluate, promote: what each run leaves in the store, read back from it."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from job_kit import TINY, TINY_ENCODER
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.evaluation import EvaluateConfig
from moola.errors import PromotionRefused
from moola.promotion.evidence import load_evidence, verify
from moola.promotion.keys import load_trusted_keys
from moola.steps.evaluate import evaluate
from moola.steps.finetune import finetune
from moola.steps.pretrain import pretrain
from moola.steps.promote import promote
from moola.steps.registry import ledger_of


def artifact(client: MlflowClient, run_id: str, path: str) -> Path:
    return Path(client.download_artifacts(run_id, path))


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory, template_db: Path, data_root: Path
) -> dict[str, object]:
    """Run the whole job once; the tests read what it left."""
    import os
    import shutil
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("job")
    shutil.copy(template_db, folder / "mlflow.db")
    (folder / "data").symlink_to(data_root)
    before = Path.cwd()
    os.chdir(folder)
    try:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        encoder = pretrain(TINY_ENCODER, output=Path("artifacts/pretrained/encoder"))
        config = replace(TINY, pretrained_encoder=str(encoder.encoder))
        scratch, transfer = finetune(TINY), finetune(config)
        judged = [
            evaluate(
                version=s.version, config=EvaluateConfig(seeds=(17,), gates=gates), device="cpu"
            )
            for s, gates in ((scratch, (0, 1, 2)), (transfer, ()))
        ]
        yield {
            "folder": folder,
            "client": MlflowClient(),
            "encoder": encoder,
            "scratch": scratch,
            "transfer": transfer,
            "judged": judged,
        }
    finally:
        os.chdir(before)


def test_every_run_finished_with_code_and_step(job: dict) -> None:
    client = job["client"]
    runs = {
        job["encoder"].run_id: "pretrain",
        job["scratch"].run_id: "finetune",
        job["transfer"].run_id: "finetune",
        job["judged"][0].run_id: "evaluate",
    }
    for run_id, step in runs.items():
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags[names.TAG_STEP] == step
        assert run.data.tags[names.TAG_GIT_DIRTY] in ("true", "false")


def test_pretraining_states_its_corpus(job: dict) -> None:
    config = json.loads((job["encoder"].encoder / "config.json").read_text())
    assert config["corpus"]["name"] == "unlabeled_windows/v1"
    assert config["corpus"]["last_bar"] < "2018-12-01"
    run = job["client"].get_run(job["encoder"].run_id)
    assert len(job["client"].get_metric_history(run.info.run_id, "train_loss")) == 2
    assert run.inputs.dataset_inputs[0].dataset.digest == config["corpus"]["sha256"][:36]


def test_a_finetune_run_proves_data_load_and_freeze(job: dict) -> None:
    client, summary = job["client"], job["transfer"]
    run_id = summary.run_id
    audit = json.loads(artifact(client, run_id, names.ARTIFACT_AUDIT).read_text())
    assert audit["passed"]
    assert audit["counts"] == {"train": 740, "val": 172, "test": 316, "purged": 36}
    split = json.loads(artifact(client, run_id, names.ARTIFACT_SPLIT).read_text())
    assert len(split["train_indices"]) == 740
    load = json.loads(artifact(client, run_id, names.ARTIFACT_LOAD_REPORT).read_text())
    assert load["match_ratio_encoder"] == 1.0
    assert (load["num_matched"], load["num_mismatched"], load["num_ignored"]) == (8, 0, 5)
    freeze = json.loads(artifact(client, run_id, names.ARTIFACT_FREEZE_SCHEDULE).read_text())
    assert freeze["proof"]["proven"]
    first, second = freeze["proof"]["phases"]
    assert (first["encoder_tensors_frozen"], first["encoder_tensors_moved"]) == (8, 0)
    assert (second["encoder_tensors_frozen"], second["encoder_tensors_moved"]) == (0, 8)
    evolution = pq.read_table(artifact(client, run_id, names.ARTIFACT_WEIGHT_EVOLUTION))
    frozen = evolution.filter(
        [p == "encoder" and e == 0 for p, e in zip(
            evolution["part"].to_pylist(), evolution["epoch"].to_pylist(), strict=True)]
    )  # fmt: skip
    assert set(frozen["requires_grad"].to_pylist()) == {False}
    assert set(frozen["change_since_load"].to_pylist()) == {0.0}


def test_a_finetune_run_logs_calibration_predictions_and_pictures(job: dict) -> None:
    client, summary = job["client"], job["scratch"]
    bins = json.loads(artifact(client, summary.run_id, names.ARTIFACT_BINS).read_text())
    assert bins["calibration"]["temperature"] == summary.calibration.temperature
    path = names.ARTIFACT_PREDICTIONS.format(part="val")
    predictions = pq.read_table(artifact(client, summary.run_id, path))
    assert len(predictions) == 172
    for path in (names.ARTIFACT_RELIABILITY, names.ARTIFACT_CONFUSION):
        assert artifact(client, summary.run_id, path).read_bytes()[:4] == b"\x89PNG"
    metrics = client.get_run(summary.run_id).data.metrics
    for key in ("accuracy", "balanced_accuracy", "f1_weighted", "f1_class_0", "f1_class_1",
                "pr_auc", "roc_auc", "brier", "log_loss", "ece"):  # fmt: skip
        assert metrics[key] == pytest.approx(summary.metrics[key])
    contexts = {
        tag.value: entry.dataset
        for entry in client.get_run(summary.run_id).inputs.dataset_inputs
        for tag in entry.tags
        if tag.key == "mlflow.data.context"
    }
    assert set(contexts) == {"train", "validation", "test"}
    assert contexts["train"].digest == summary.audit["labeled_sha256"][:36]


def test_an_evaluation_is_a_parent_with_a_child_a_gate(job: dict) -> None:
    client = job["client"]
    for summary, gates in zip(job["judged"], (3, 8), strict=True):
        parent = client.get_run(summary.run_id)
        children = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{summary.run_id}'"
        )
        assert sorted(c.data.tags[names.TAG_GATE] for c in children) == [
            str(g) for g in range(gates)
        ]
        assert {c.info.status for c in children} == {"FINISHED"}
        assert parent.data.metrics["log_loss"] > 0
        report = json.loads(
            artifact(client, summary.run_id, names.ARTIFACT_GATE_REPORT).read_text()
        )
        assert [g["verdict"] for g in report["gates"]] == [r.verdict for r in summary.reports]
        table = json.loads(artifact(client, summary.run_id, names.ARTIFACT_GATES_TABLE).read_text())
        assert len(table["data"]) == gates
        baseline = next(c for c in children if c.data.tags[names.TAG_GATE] == "1")
        for end in ("", "_low", "_high"):
            assert f"delta_log_loss{end}" in baseline.data.metrics


def test_evidence_is_signed_for_the_very_version(job: dict) -> None:
    client, summary = job["client"], job["judged"][0]
    signed = load_evidence(client, names.REGISTERED_MODEL, job["scratch"].version)
    evidence = verify(signed, load_trusted_keys(job["folder"] / ".moola" / "trusted"))
    assert evidence.version == job["scratch"].version
    assert evidence.model_sha256 == summary.candidate.model_sha256
    assert evidence.verdicts["0"] == "passed"


def test_the_served_model_equals_the_trained_one(job: dict, data_root: Path) -> None:
    X = np.load(data_root / "labeled_windows" / "v1" / "X_ohlc.npy")[-7:]
    trained = job["scratch"].result.model.predict_proba(X)
    uri = f"models:/{names.REGISTERED_MODEL}/{job['scratch'].version}"
    model = mlflow.pyfunc.load_model(uri)
    answer = model.predict(X, params={"calibrated": False})
    columns = ["probability_consolidation", "probability_expansion"]
    assert np.abs(answer[columns].to_numpy() - trained).max() < 1e-6
    assert set(answer["model_version"]) == {job["scratch"].version}
    doubled = model.predict(X * 2, params={"calibrated": False})  # any price level
    assert np.abs(doubled[columns].to_numpy() - trained).max() < 1e-5
    for bad, words in ((X[:, :50], "105"), (X * np.nan, "NaN"), (-X, "above 0")):
        with pytest.raises(MlflowException, match=words):
            model.predict(bad)


def test_a_version_whose_gates_failed_is_refused_and_remembered(job: dict) -> None:
    version = job["transfer"].version  # two epochs of pretraining do not pass gate 3
    with pytest.raises(PromotionRefused, match="gate 3 is failed"):
        promote(version=version)
    entry = ledger_of().entries(names.REGISTERED_MODEL)[-1]
    assert (entry.event, entry.version_to) == ("refusal", version)
    records = list((job["folder"] / "artifacts" / "decisions").glob(f"*-v{version}.md"))
    assert len(records) == 1
    assert "gate 3" in records[0].read_text().lower()
    refused = job["client"].search_runs(
        [job["client"].get_experiment_by_name(names.EXPERIMENT_PROMOTION).experiment_id],
    )
    assert refused[0].info.status == "FAILED"
    assert "gate 3 is failed" in refused[0].data.tags[names.TAG_REASON]
    with pytest.raises(MlflowException):
        job["client"].get_model_version_by_alias(names.REGISTERED_MODEL, names.ALIAS_PRODUCTION)


def test_a_changed_byte_in_a_built_set_ends_the_run_failed(
    project: Path, data_root: Path, tmp_path: Path
) -> None:
    import shutil

    from moola.errors import AuditError

    (project / "data").unlink()
    shutil.copytree(data_root, project / "data")
    victim = project / "data" / "labeled_windows" / "v1" / "y.npy"
    content = bytearray(victim.read_bytes())
    content[-8] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(AuditError, match=r"y\.npy"):
        finetune(TINY)
    client = MlflowClient()
    runs = client.search_runs(
        [client.get_experiment_by_name(names.EXPERIMENT_FINETUNE).experiment_id]
    )
    assert [r.info.status for r in runs] == ["FAILED"]
    assert "y.npy" in runs[0].data.tags[names.TAG_REASON]
