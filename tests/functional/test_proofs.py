"""Every entry point x every outcome: a run logs its five proofs, or says why it has none.

The cells marked slow run with ``pytest -m slow tests/functional/test_proofs.py``.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from proof_kit import (
    ENTRIES,
    NAME,
    Stop,
    fail,
    killed,
    logged,
    make_versions,
    make_world,
    never,
    newest_run,
    refuse,
    start,
    stated,
    terminate,
)

from moola.config import names
from moola.errors import MoolaError
from moola.interrupt import Terminated
from moola.tracking.proofs import PROOFS
from moola.tracking.sync import sync

AUDIT, SPLIT, LOAD, SCHEDULE, CALIBRATION = PROOFS
DATA = {AUDIT, SPLIT}
TRAINED = {AUDIT, SPLIT, LOAD, SCHEDULE}
# What is logged by a run that finishes, is stopped in the middle, and is refused.
LOGGED: dict[str, tuple[set[str], set[str], set[str]]] = {
    "pretrain masked": (DATA, DATA, DATA),
    "pretrain ts2vec": (DATA, DATA, DATA),
    "pretrain multitask": (DATA | {CALIBRATION}, DATA, DATA),
    "train scratch": (DATA | {SCHEDULE, CALIBRATION}, DATA | {SCHEDULE}, DATA),
    "train encoder": (TRAINED | {CALIBRATION}, TRAINED, TRAINED),
    "evaluate": (TRAINED | {CALIBRATION}, TRAINED, set()),
    "ablate": (TRAINED | {CALIBRATION}, TRAINED, DATA),
    "sweep": (DATA | {SCHEDULE, CALIBRATION}, DATA | {SCHEDULE}, DATA),
    "drift": (DATA | {CALIBRATION}, DATA | {CALIBRATION}, DATA),
    "promote": (DATA | {CALIBRATION}, DATA, set()),
}
QUICK = ("train encoder", "pretrain multitask")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[Path]:
    """A small project; the tests run in it."""
    folder = tmp_path_factory.mktemp("proofs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        make_world(folder, template_db)
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def versions(world: Path) -> None:
    make_versions(world)


@pytest.fixture
def client(world: Path, request: pytest.FixtureRequest) -> MlflowClient:
    """A client of the store, which holds the versions that the entry point is about."""
    parameters = getattr(request.node, "callspec", None)
    if parameters is None or parameters.params["entry"] in ("evaluate", "drift", "promote"):
        request.getfixturevalue("versions")
    return MlflowClient(f"sqlite:///{world}/mlflow.db")


def cells(*outcomes: tuple[Any, ...]) -> list[Any]:
    """Return entry x outcome; those beyond the quick ones are marked slow."""
    return [
        pytest.param(entry, *outcome, marks=() if entry in QUICK else pytest.mark.slow)
        for entry in ENTRIES
        for outcome in outcomes
    ]


def assert_reasons(found: dict[str, Any], *words: str) -> None:
    """Assert that every proof that is not there has a reason: one of its kind, or one of these."""
    kinds = ("none: no encoder", "none: nothing is", "none: hidden bars", "none: contrastive")
    for proof, said in found.items():
        if isinstance(said, str):
            assert said.startswith((*kinds, *words)), (proof, said)


@pytest.mark.parametrize("entry", cells(()))
def test_a_finished_run_has_its_proofs_or_says_why_not(client: MlflowClient, entry: str) -> None:
    start(entry, never)
    run = newest_run(client)
    assert run.info.status == "FINISHED"
    found = stated(client, run)
    assert logged(found) == LOGGED[entry][0]
    assert_reasons(found)
    if entry not in ("sweep", "ablate", "evaluate"):
        assert found[AUDIT]["passed"]
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`{names.TAG_PARENT}` = '{run.info.run_id}'"
    )
    for child in children:
        assert_reasons(stated(client, child), "none: one for the whole evaluation, search or abl")


@pytest.mark.parametrize(
    ("entry", "stop", "status", "why"),
    cells(
        (fail, "FAILED", "none: failed before it was known: a bug of the test's"),
        (terminate, "KILLED", "none: stopped by SIGTERM before it was known"),
    ),
)
def test_a_run_that_is_stopped_in_the_middle_has_what_it_knew(
    client: MlflowClient, entry: str, stop: Stop, status: str, why: str
) -> None:
    with pytest.raises((RuntimeError, Terminated)):
        start(entry, stop)
    run = newest_run(client)
    assert run.info.status == status
    found = stated(client, run)
    assert logged(found) == LOGGED[entry][1]
    assert_reasons(found, why)
    assert_so_far(client, run, entry)


@pytest.mark.parametrize("entry", cells(()))
def test_a_run_that_is_killed_outright_has_what_it_knew(
    world: Path, client: MlflowClient, entry: str
) -> None:
    assert killed(entry, f"sqlite:///{world}/mlflow.db") == -signal.SIGKILL
    assert all(report.trouble is None for report in sync())
    run = newest_run(client)
    assert run.info.status == "FAILED"
    found = stated(client, run)
    assert logged(found) == LOGGED[entry][1]
    assert_reasons(found, "none: the process was killed before it was known")
    assert_so_far(client, run, entry)


@pytest.mark.parametrize("entry", cells(()))
def test_a_run_that_is_refused_has_what_it_was_refused_for(
    client: MlflowClient, entry: str, tmp_path: Path
) -> None:
    with pytest.raises(MoolaError) as refusal:
        refuse(entry, tmp_path)
    run = newest_run(client)
    assert run.info.status == "FAILED"
    found = stated(client, run)
    assert logged(found) == LOGGED[entry][2]
    assert_reasons(found, f"none: refused before it was known: {str(refusal.value)[:60]}")
    if entry == "train encoder":
        assert not found[LOAD]["loaded"]
        assert found[LOAD]["refusal"] == str(refusal.value)
        assert found[LOAD]["num_mismatched"] > 0
    elif AUDIT in logged(found):
        trails = [found[AUDIT]] if "checks" in found[AUDIT] else found[AUDIT].values()
        bad = [c for trail in trails for c in trail["checks"] if not c["passed"]]
        assert bad
        assert bad[0]["detail"] in str(refusal.value)


def assert_so_far(client: MlflowClient, run: Run, entry: str) -> None:
    """Assert that epochs and trainings that were done are in the run."""
    run_id = run.info.run_id
    if entry.startswith(("train", "pretrain")):
        assert [m.step for m in client.get_metric_history(run_id, "train_loss")] == [0]
    if entry.startswith("train"):
        path = client.download_artifacts(run_id, names.ARTIFACT_WEIGHT_EVOLUTION)
        assert set(pq.read_table(path)["epoch"].to_pylist()) == {0}
        proof = stated(client, run)[SCHEDULE]["proof"]
        assert not proof["proven"]
        assert proof["reasons"] == ["training has not ended: 1 of 3 epochs"]
        assert proof["phases"][0]["epochs"] == [0, 0]
    if entry in ("evaluate", "ablate", "sweep"):
        assert client.list_artifacts(run_id, "trainings")
    assert run.inputs.dataset_inputs


@pytest.mark.slow
def test_every_training_of_an_evaluation_names_its_rows_load_schedule_and_proof(
    client: MlflowClient,
) -> None:
    start("train encoder", never, register_as=NAME, patience=2)  # takes rows for early stopping
    version = max(int(v.version) for v in client.search_model_versions(f"name='{NAME}'"))
    start("evaluate", never, version=str(version))
    run = newest_run(client)
    found = stated(client, run)
    folds = {fold["name"].rpartition("/")[2]: fold for fold in found[SPLIT]["folds"]}
    local = client.download_artifacts(run.info.run_id, names.ARTIFACT_TRAININGS_TABLE)
    table = json.loads(Path(local).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {(row["trainee"], row["fold"], row["seed"]) for row in rows} == {
        (rival, f"walk/{fold}", 1) for rival in ("scratch", "transfer") for fold in folds
    }
    for row in rows:
        training = json.loads(
            Path(client.download_artifacts(run.info.run_id, row["file"])).read_text()
        )
        fold = folds[row["fold"].rpartition("/")[2]]
        used = [training[f"{part}_indices"] for part in ("fit", "purged", "stop")]
        assert [row for part in used for row in part] == fold["train_indices"]
        assert all(used)
        assert training["val_indices"] == fold["val_indices"]
        assert training["proof"]["proven"] is row["proven"] is True
        assert training["schedule"]["name"] == row["schedule"]
        if row["trainee"] == "transfer":
            assert training["load_report"]["match_ratio_encoder"] == 1.0
            assert found[LOAD]["trainings"][row["file"]] == training["load_report"]
        else:
            assert training["load_report"] is None


def test_a_pretraining_names_its_rows_and_derives_its_corpus_again(world: Path) -> None:
    start("pretrain multitask", never)
    client = MlflowClient()
    found = stated(client, newest_run(client))
    split, corpus = found[SPLIT], np.load("data/unlabeled_windows/v1/X_ohlc.npy")
    rows = [i for part in ("train", "purged", "val") for i in split[f"{part}_indices"]]
    assert rows == list(range(len(corpus)))
    assert split["counts"]["purged"] == 11  # windows of 12 bars
    asked = [check["name"] for check in found[AUDIT]["checks"]]
    assert "every window is a stretch of its source's bars (none is synthetic)" in asked
    assert "no bar shared between train and held-out" in asked
    for task in ("direction", "swing", "candle"):
        bins = found[CALIBRATION][task]
        gaps = np.abs(np.subtract(bins["predicted"], bins["observed"]))
        assert np.average(gaps, weights=bins["count"]) == pytest.approx(
            bins["ece_plugin"], abs=1e-9
        )
