"""Pretrain, fine-tune, evaluate, promote: what each run leaves in the store, read back from it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from job_kit import TINY, TINY_ENCODER, artifact, proofs_of, rebuilt_from_the_store
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.evaluation import EvaluateConfig
from moola.data.store.data_store import DataStore
from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import load_evidence, verify
from moola.promotion.evidence.keys import load_trusted_keys
from moola.promotion.production import ledger_of
from moola.steps.evaluate import evaluate
from moola.steps.finetune import finetune
from moola.steps.pretrain import pretrain
from moola.steps.promote import promote


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory, template_db: Path, data_root: Path
) -> dict[str, object]:
    """Run the whole job once; the tests read what it left."""
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


def test_every_run_logs_its_proofs_or_says_why_not(job: dict) -> None:
    encoder, scratch, transfer = (job[k].run_id for k in ("encoder", "scratch", "transfer"))
    missing = {
        encoder: {
            "load_report": "no encoder to load: pretraining begins with random weights",
            "schedule": "nothing is frozen: pretraining trains every tensor in every epoch",
            "calibration": "hidden bars are answered by prices, not by probabilities",
        },
        scratch: {"load_report": "no encoder to load: trained from scratch"},
        transfer: {},
        job["judged"][0].run_id: {"load_report": "no encoder to load: trained from scratch"},
        job["judged"][1].run_id: {},
    }
    for run_id, reasons in missing.items():
        found = proofs_of(job["client"], run_id)
        said = {k: v for k, v in found.items() if not v.startswith("logged: ")}
        assert said == {k: f"none: {v}" for k, v in reasons.items()}


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
    note = client.get_run(summary.run_id).data.tags["mlflow.note.content"]
    assert f"log_loss {summary.metrics['log_loss']:.4f}" in note
    assert "moola promote" in client.get_registered_model(names.REGISTERED_MODEL).description
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


@pytest.mark.parametrize(
    "field",
    ["data", "split", "load_report", "freeze", "calibration", "bins", "model_links", "params",
     "environment"],
)  # fmt: skip
def test_a_finetune_is_rebuilt_field_by_field(job: dict, data_root: Path, field: str) -> None:
    summary = job["transfer"]
    data = DataStore(data_root).load_labeled()
    found = rebuilt_from_the_store(job["client"], summary.run_id)
    digest = summary.audit["labeled_sha256"]
    counts = summary.audit["counts"]
    if field == "data":
        assert found["data"] == {
            context: {
                "name": f"labeled_windows/v1@{data.split.name}/{part}",
                "sha256": digest,
                "uri": "bars/btcusd_1h",
                "num_windows": counts[part],
            }
            for part, context in (("train", "train"), ("val", "validation"), ("test", "test"))
        }
    elif field == "split":
        for part in ("train", "val", "test"):
            assert found["split"][f"{part}_indices"] == getattr(data.split, part).tolist()
    elif field == "load_report":
        assert found["load_report"] == json.loads(json.dumps(summary.result.load_report))
    elif field == "freeze":
        expected = {"schedule": summary.result.schedule, "proof": summary.result.proof}
        assert found["freeze"] == json.loads(json.dumps(expected))
    elif field == "calibration":
        assert found["bins"]["calibration"] == asdict(summary.calibration)
        assert found["metrics"]["temperature"] == summary.calibration.temperature
        assert found["metrics"]["ece"] == pytest.approx(summary.metrics["ece"])
    elif field == "bins":
        for moment in ("before", "after"):
            assert sum(found["bins"][moment]["count"]) == counts["val"]
        after = found["bins"]["after"]
        gaps = [abs(p - o) for p, o in zip(after["predicted"], after["observed"], strict=True)]
        assert np.average(gaps, weights=after["count"]) == pytest.approx(after["ece_plugin"])
        assert after["ece"] == pytest.approx(found["metrics"]["ece"])  # one ece a run
    elif field == "model_links":
        name, short = f"labeled_windows/v1@{data.split.name}/val", digest[:36]
        expected = {k: (v, name, short) for k, v in summary.metrics.items() if v is not None}
        linked = {k: v for k, v in found["model_links"].items() if v[1] == name}
        assert linked == expected
    elif field == "params":
        for key, value in summary.config.to_dict().items():
            assert found["params"][key] == str(value)
    else:
        environment = found["environment"]
        assert environment["seed"] == summary.config.seed
        assert environment["packages"]["mlflow"] == mlflow.__version__
        assert environment["threads"]["torch"] >= 1


def test_an_evaluation_is_rebuilt_field_by_field(job: dict, data_root: Path) -> None:
    summary = job["judged"][1]
    registry = DataStore(data_root)
    folds = registry.load_folds("walk_forward_v1")
    found = rebuilt_from_the_store(job["client"], summary.run_id)
    assert found["data"] == {
        "validation": {
            "name": f"labeled_windows/v1@{folds.name}",
            "sha256": registry.load_set("labeled_windows/v1").sha256,
            "uri": "bars/btcusd_1h",
            "num_windows": summary.num_windows,
        }
    }
    assert found["split"] == folds.to_dict()
    assert found["tags"][names.TAG_CANDIDATE] == f"{names.REGISTERED_MODEL}/2"
    assert sum(found["bins"]["count"]) == summary.num_windows
    for key, value in summary.metrics.items():
        if value is not None:
            assert found["metrics"][key] == pytest.approx(value)


def test_runs_and_show_tell_it_again_from_the_store(
    job: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    from moola.cli.app import _run
    from moola.cli.reports import print_evaluation, print_finetune

    for summary, printed in (
        (job["transfer"], print_finetune),
        (job["scratch"], print_finetune),
    ):
        printed(summary)
        first = capsys.readouterr().out
        assert f"{summary.audit['counts']['train']} windows, augmentation off" in first
        assert _run(["show", summary.run_id[:10]]) == 0
        again = capsys.readouterr().out
        assert sorted(again.splitlines()) == sorted(first.splitlines())
    print_evaluation(job["judged"][0])
    table = capsys.readouterr().out.rpartition("═")[2].partition("Not asked: ")[0]
    assert _run(["show", job["judged"][0].run_id]) == 0
    assert capsys.readouterr().out.endswith(table)
    assert _run(["runs", "--num", "2", "--step", "finetune"]) == 0
    listed = capsys.readouterr().out
    assert listed.index(job["transfer"].run_id[:8]) < listed.index(job["scratch"].run_id[:8])
    assert _run(["runs", "--num", "2", "--step", "finetune", "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)[0]
    assert (newest["run_id"], newest["status"]) == (job["transfer"].run_id, "FINISHED")
    assert _run(["show", job["judged"][0].run_id, "--json"]) == 0
    children = json.loads(capsys.readouterr().out)["children"]
    assert {c["tags"][names.TAG_GATE] for c in children} >= {"0", "1", "2"}
    assert _run(["show", "nothing"]) == 2
    assert "no run answers to 'nothing'" in capsys.readouterr().err
    assert _run(["ui", "gates"]) == 0
    assert "compare-runs?runs=" in capsys.readouterr().out
    assert _run(["ui", "cats"]) == 2


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


def test_a_version_whose_gates_failed_is_refused_and_remembered(
    job: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    from moola.cli.app import _run

    version = job["transfer"].version  # two epochs of pretraining do not pass gate 3
    with pytest.raises(PromotionRefused, match="gate 3 is failed"):
        promote(version=version)
    entry = ledger_of().entries(names.REGISTERED_MODEL)[-1]
    assert (entry.event, entry.version_to) == ("refusal", version)
    capsys.readouterr()
    assert _run(["history", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["champion"] is None
    assert told["entries"][-1]["reason"] == entry.reason
    assert _run(["verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
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


def patterns_on_the_page(page: str, section: str) -> list[str]:
    """Return what a section names, as patterns: of a table its first column, else every name."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ", maxsplit=1)[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    if section != "Metrics":
        text = " ".join(row.split("|")[1] for row in rows)
    words = re.findall(r"`([^`\n]+)`", text)
    plain = "|".join(re.escape(word) for word in words if "<" not in word)
    return [
        re.sub(r"<\w+>", r"[\\w.-]+", re.escape(word).replace("<metric>", f"({plain})"))
        for word in words
        if not word.startswith("<figure>")  # of a gate: any name
    ]


def test_every_name_in_the_store_is_on_the_page_of_names(
    job: dict[str, object], repository: Path
) -> None:
    """What runs, versions and inputs hold, read back from the store."""
    page = (repository / "docs" / "mlflow-names.md").read_text()

    def unknown(section: str, found: Iterable[str]) -> set[str]:
        known = patterns_on_the_page(page, section)
        return {name for name in found if not any(re.fullmatch(p, name) for p in known)}

    def files(run_id: str, path: str = "") -> Iterator[str]:
        for item in client.list_artifacts(run_id, path):
            if item.path == "images" or not unknown("Artifacts", [item.path]):
                continue  # a folder that is named holds what the page says of it
            if item.is_dir:
                yield from files(run_id, item.path)
            else:
                yield item.path

    client = job["client"]
    assert isinstance(client, MlflowClient)
    experiments = {e.name: e.experiment_id for e in client.search_experiments()}
    assert set(experiments) - {"Default"} <= set(names.EXPERIMENTS)
    runs = [r for id_ in experiments.values() for r in client.search_runs([id_])]
    tags = {t for run in runs for t in run.data.tags}
    tags |= {t.key for run in runs for i in run.inputs.dataset_inputs for t in i.tags}
    for version in client.search_model_versions(f"name='{names.REGISTERED_MODEL}'"):
        tags |= set(version.tags)
    own = {t for t in tags if t.startswith("moola.")}
    assert len(own) > 15
    assert not unknown("Tags", own)
    figures = {m for run in runs if names.TAG_GATE not in run.data.tags for m in run.data.metrics}
    assert len(figures) > 40
    assert not unknown("Metrics", figures)
    assert not unknown("Artifacts", {path for run in runs for path in files(run.info.run_id)})
    assert unknown("Tags", ["moola.other"]) == {"moola.other"}
    assert unknown("Metrics", ["other_low", "log_loss_low", "train_loss"]) == {"other_low"}
    assert unknown("Artifacts", ["other/file.json", "gates.json"]) == {"other/file.json"}
