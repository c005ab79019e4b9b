"""`moola evaluate` on a small registry: blocking, one gate alone, and a kill in the middle."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pytest
from data_kit import small_registry
from mlflow import MlflowClient

from moola.cli.app import _run
from moola.config import names
from moola.config.data import SplitRecipe, WindowRecipe
from moola.config.evaluation import EvaluateConfig
from moola.config.pretraining import MultitaskConfig
from moola.config.promotion import TRUSTED_FOLDER, PromotionPolicy
from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.errors import ConfigError, DataError
from moola.judging.examine import signed_report
from moola.promotion.evidence.attestation import (
    Evidence,
    evidence_from_report,
    load_evidence,
    sign,
    store_evidence,
    verify,
)
from moola.promotion.evidence.checks import check_evidence
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key, load_trusted_keys
from moola.promotion.production import runner_key
from moola.steps.evaluate import EvaluationSummary, evaluate, resolve_versions
from moola.steps.finetune import finetune
from moola.steps.pretrain import pretrain
from moola.steps.runs import list_runs

KNOWS_NOTHING = FinetuneConfig(
    preset="compact",
    labeled="labeled_windows/v1",
    split="splits/fwd.json",
    epochs=1,
    patience=0,
    learning_rate=1e-7,
    device="cpu",
)
CONFIG = EvaluateConfig(seeds=(17, 2))
KILLED = """
import os, signal
from pathlib import Path
from moola.config.evaluation import EvaluateConfig
from moola.steps.evaluate import evaluate

def progress(task, done, total, note=""):
    if task == "walk-forward: scratch" and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

evaluate(config=EvaluateConfig(seeds=(17, 2)), device="cpu", progress=progress)
"""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[str]:
    """A version that has learned nothing, in a project whose classes are easy to tell."""
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copy(template_db, folder / "mlflow.db")
    registry = small_registry(folder / "data", num_bars=1200, swing=2.0)
    recipe = SplitRecipe(labeled="labeled_windows/v1", strategy="walk_forward", num_folds=2)
    registry.build_split("walk", recipe)
    before = Path.cwd()
    os.chdir(folder)
    try:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        number = finetune(KNOWS_NOTHING).version
        assert number is not None
        yield number
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def judged(version: str) -> EvaluationSummary:
    return evaluate(config=CONFIG, device="cpu", cache=Path("artifacts/whole"))


def artifact(summary: EvaluationSummary, path: str) -> Path:
    return Path(MlflowClient().download_artifacts(summary.run_id, path))


def test_a_control_that_wins_blocks_the_rest_and_leaves_an_investigation(
    judged: EvaluationSummary,
) -> None:
    verdicts = {r.gate: r.verdict for r in judged.reports}
    assert verdicts.pop(1) != "passed"
    assert verdicts == {0: "passed", 2: "failed", 5: "blocked", 6: "blocked", 7: "blocked"}
    assert len(list(Path("artifacts/whole").glob("*.npz"))) == 2 * (2 + 4)  # no gate 5, no 6
    page = artifact(judged, names.ARTIFACT_INVESTIGATION).read_text()
    assert "STOP: logreg is better" in page
    assert "no leak is known" in page
    assert "expansion" in page
    assert "| range_" in page
    pictures = re.findall(r"\]\((investigation/window-\d+\.png)\)", page)
    assert len(pictures) == 6
    assert all(artifact(judged, p).read_bytes()[:4] == b"\x89PNG" for p in pictures)
    html = artifact(judged, names.ARTIFACT_REPORT_PAGE).read_text()
    assert html.count("probability of it: candidate") == 6
    assert judged.not_run == ()


def test_one_gate_alone_is_logged_but_not_signed(version: str) -> None:
    client = MlflowClient()
    before = client.get_model_version(names.REGISTERED_MODEL, version).tags
    cache = Path("artifacts/one")
    config = EvaluateConfig(seeds=(17, 2), gates=(0,))
    summary = evaluate(config=config, device="cpu", cache=cache)
    assert [(r.gate, r.verdict) for r in summary.reports] == [(0, "passed")]
    assert summary.not_run == (1, 2)
    assert dict(summary.metrics) == {}
    assert not cache.exists()  # gate 0 needs no training
    assert client.get_model_version(names.REGISTERED_MODEL, version).tags == before
    with pytest.raises(ConfigError, match="gate 3 asks about its encoder"):
        evaluate(config=EvaluateConfig(gates=(3,)), device="cpu", cache=cache)


def test_what_cannot_be_judged_or_signed_is_refused_before_anything_is_trained(
    version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve_versions(f"newest, {version}") == (version,)
    num_runs = len(list_runs(num=100))
    words = ["evaluate", "--device", "cpu", "--json", "--version"]
    for asked, said in ((f"{version},", f"version is '{version},'"), ("newest,99", "version 99")):
        assert _run([*words, asked]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv("MOOLA_SIGNING_KEY", "no key")
    with pytest.raises(ConfigError, match="MOOLA_SIGNING_KEY"):
        evaluate(config=CONFIG, device="cpu")
    policy = Path(".moola/policy.yaml")
    policy.parent.mkdir(exist_ok=True)
    policy.write_text("required: [0]\n")
    try:
        with pytest.raises(ConfigError, match="required"):
            evaluate(config=CONFIG, device="cpu")
    finally:
        policy.unlink()
    assert len(list_runs(num=100)) == num_runs


def test_what_was_judged_is_told_though_a_later_version_cannot_be(
    version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def until_a_set_is_gone(**options: Any) -> EvaluationSummary:
        if options["version"] != version:
            raise DataError("set is gone")
        return evaluate(**{**options, "peers": ()})

    monkeypatch.setattr("moola.steps.evaluate.evaluate", until_a_set_is_gone)
    monkeypatch.setattr("moola.steps.evaluate.resolve_versions", lambda *_, **__: (version, "2"))
    assert _run(["evaluate", "--gate", "0", "--device", "cpu", "--json"]) == 2
    told = capsys.readouterr()
    assert [found["version"] for found in json.loads(told.out)] == [version]
    assert "set is gone" in told.err


def test_where_the_environment_holds_the_key_no_other_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of trusted keys may be mounted read-only there."""
    monkeypatch.setenv("MOOLA_SIGNING_KEY", ensure_signing_key(tmp_path / "other").read_text())
    key = load_signing_key(tmp_path / "other", env={})
    found = runner_key(tmp_path)
    assert found.private_bytes_raw() == key.private_bytes_raw()
    assert not (tmp_path / ".moola").exists()


def test_a_further_control_is_one_more_of_gate_2(judged: EvaluationSummary) -> None:
    config = EvaluateConfig(seeds=(17, 2), gates=(2,), controls=("quant",))
    cache = Path("artifacts/whole")  # nothing is trained again but the further control
    (found,) = evaluate(
        version=judged.candidate.version, config=config, device="cpu", cache=cache
    ).reports
    assert set(found.figures["controls"]) == {"minirocket", "logreg", "rf", "hgb", "quant"}
    assert {key.split("/")[0] for key in found.figures["joint_p"]} == set(found.figures["controls"])


def test_a_candidate_that_has_a_peer_is_held_to_holm(
    judged: EvaluationSummary, version: str
) -> None:
    config = EvaluateConfig(seeds=(17, 2), gates=(1,))
    cache = Path("artifacts/whole")  # nothing is trained again
    found = evaluate(config=config, device="cpu", cache=cache, peers=[version]).reports[0]
    alone = next(r for r in judged.reports if r.gate == 1)
    p = alone.figures["p_values"]["log_loss"]
    assert found.figures["num_candidates"] == 2
    assert found.figures["holm_p"] == pytest.approx(min(1.0, 2 * p))


def test_killed_and_run_again_it_trains_only_what_is_missing(judged: EvaluationSummary) -> None:
    cache = Path("artifacts/evaluation")
    env = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = {p: p.stat().st_mtime_ns for p in cache.glob("*.npz")}
    assert len(finished) >= 3  # the controls are trained side by side with it
    again = evaluate(config=CONFIG, device="cpu", cache=cache)
    assert len(list(cache.glob("*.npz"))) > len(finished)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    documents = [
        json.loads(artifact(s, names.ARTIFACT_GATE_REPORT).read_text()) for s in (judged, again)
    ]
    for document in documents:
        del document["created_at"]
    assert documents[0] == documents[1]
    pages = [artifact(s, names.ARTIFACT_REPORT_PAGE).read_bytes() for s in (judged, again)]
    assert pages[0] == pages[1]


@pytest.mark.medium
def test_an_encoder_without_a_decoder_is_judged_by_its_own_tasks(version: str) -> None:
    corpus = WindowRecipe(
        source="walk", window_bars=12, step_bars=1, label="none", end="2020-01-08"
    )
    DataStore("data").build_set("unlabeled_windows/v1", corpus)
    shape = MultitaskConfig(hidden_dim=32, num_layers=1, horizon_bars=2, epochs=1, device="cpu")
    encoder = str(pretrain(shape, output=Path("encoder")).encoder)
    config = replace(KNOWS_NOTHING, pretrained_encoder=encoder, freeze="frozen")
    finetune(config, register_as="Multitask")
    found = evaluate(name="Multitask", config=EvaluateConfig(gates=(3,)), device="cpu").reports[0]
    assert found.verdict in ("failed", "inconclusive")
    assert found.figures["pretext"] == "loss of the three tasks"
    assert any("the loss of the three tasks is" in reason for reason in found.reasons)


def now_signed(version: str) -> Evidence:
    signed = load_evidence(MlflowClient(), names.REGISTERED_MODEL, version)
    return verify(signed, load_trusted_keys(TRUSTED_FOLDER))


def reasons(evidence: Evidence, version: str) -> list[str]:
    return check_evidence(
        evidence,
        name=names.REGISTERED_MODEL,
        version=version,
        run_id=evidence.run_id,
        model_sha256=evidence.model_sha256,
        policy=PromotionPolicy(required_gates=(0,)),  # gate 1 is not even required
        now=None,
    )


@pytest.fixture
def held(version: str, judged: EvaluationSummary) -> str:
    """The version with a gate 1 that is held, as that of a leak, signed by the gate runner."""
    client, evidence = MlflowClient(), now_signed(version)
    document = json.loads(json.dumps(signed_report(client, evidence)))
    document["gates"] = [g for g in document["gates"] if g["gate"] in (0, 1)]
    gate = document["gates"][1]
    gate["verdict"] = "held"
    gate["reasons"] = ["too good to be true: ROC-AUC is 0.99", "held", *gate["reasons"]]
    suspicions = {"roc_auc": "ROC-AUC is 0.99"}
    gate["figures"]["leaks"] = {"suspicions": suspicions, "beneath": "passed"}
    client.log_dict(evidence.gates_run_id, document, names.ARTIFACT_GATE_REPORT)
    key = load_signing_key(Path(), env={})
    made = evidence_from_report(
        document,
        gates_run_id=evidence.gates_run_id,
        policy=PromotionPolicy(),
        key=key,
        now=datetime(2026, 1, 2, tzinfo=UTC),
    )
    store_evidence(client, sign(made, key), made)
    return version


@pytest.mark.medium
def test_a_held_gate_passes_nothing_until_it_is_answered_by_who_can_sign(
    held: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert reasons(now_signed(held), held) == ["gate 1 is held, not passed"]
    assert _run(["investigate", held, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gate_1"] == "held"
    assert set(found["checks"]) == {
        "lag", "horizon", "halves", "age", "feature", "continuity", "repairs",
    }  # fmt: skip
    asked = found["asked"]
    assert "roc_auc" in asked
    assert now_signed(held).verdicts["1"] == "held"  # to look answers nothing

    assert _run(["investigate", held, "--answer", "roc_auc"]) == 2
    assert _run(["investigate", held, "--answer", "clock=the clock is right"]) == 2
    answers = [w for name in asked for w in ("--answer", f"{name}=the market is made so")]
    shutil.move(".moola/keys", tmp_path / "keys")
    try:
        assert _run(["investigate", held, *answers]) == 1
        assert "counts only if it is signed" in capsys.readouterr().err
        assert now_signed(held).verdicts["1"] == "held"
    finally:
        shutil.move(tmp_path / "keys", ".moola/keys")

    assert _run(["investigate", held, *answers]) == 0
    assert "Gate 1 is passed" in capsys.readouterr().out
    evidence = now_signed(held)
    assert evidence.verdicts["1"] == "passed"
    assert evidence.figures["1"]["leaks"]["answers"]["roc_auc"] == "the market is made so"
    assert evidence.created_at.startswith("2026-01-02")  # as old as the evaluation
    assert reasons(evidence, held) == []
    signed_report(MlflowClient(), evidence)  # the report it names is there
    assert _run(["investigate", held, *answers]) == 2
    assert "gate 1 is passed, not held" in capsys.readouterr().err
