"""`moola drift` on predictions as `moola serve` keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from serve_kit import NAME, Stand, in_folder

from moola.config import names
from moola.errors import DataError
from moola.serving.kept import Answered, PredictionLog
from moola.steps.drift import DriftSummary, drift, read_kept
from moola.steps.predict import load_scorer


@pytest.fixture
def monitored(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """The stand, whose versions name their training set as a fine-tuned one does."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stand.uri)
    return stand


def serve_windows(folder: Path, X: np.ndarray, request_id: str = "r{:05}") -> None:
    """Keep answers to requests of 10 windows each."""
    scorer = load_scorer(f"models:/{NAME}/1")
    log = PredictionLog(folder)
    for k in range(0, len(X), 10):
        columns = scorer.columns(scorer.scores(scorer.logits(X[k : k + 10])))
        log.add(Answered(request_id=request_id.format(k), X=X[k : k + 10], columns=columns))
    log.close()


def test_served_windows_are_compared_with_the_training_set(
    monitored: Stand, tmp_path: Path, data_root: Path
) -> None:
    X = np.load(data_root / "labeled_windows" / "v1" / "X_ohlc.npy")
    y = np.load(data_root / "labeled_windows" / "v1" / "y.npy")
    serve_windows(tmp_path / "same", X[-600:])
    kept = read_kept(tmp_path / "same")
    assert len(kept) == 600
    assert not {"open_0", "X"} & set(kept.columns)
    written = next((tmp_path / "same").glob("*.parquet"))
    other = pq.read_table(written).slice(0, 20)  # of a version of three classes
    other = other.drop(["model_version"]).append_column("model_version", [["9"] * 20])
    other = other.append_column("probability_third", [[0.2] * 20])
    pq.write_table(other, tmp_path / "same" / "predictions-0.parquet")
    labels = kept[["request_id", "row"]].assign(label=y[-600:])
    labels.iloc[:400].to_csv(tmp_path / "labels.csv", index=False)
    flat = X[-600:].copy()
    flat[:, -6:] = flat[:, -6:, 3:4]  # the last six bars stand still
    serve_windows(tmp_path / "flat", flat)
    with in_folder(tmp_path):
        found = drift(
            tmp_path / "same", version="1", labels=tmp_path / "labels.csv", data_root=data_root
        )
        moved = drift(tmp_path / "flat", data_root=data_root)
    assert found.num_labelled == 400
    assert 0 < found.labelled["log_loss"] < 2
    assert {"range_6", "bar_range_1"} <= set(moved.report.drifted)
    assert len(found.report.drifted) < len(moved.report.drifted)
    run = MlflowClient(monitored.uri).get_run(moved.run_id)
    assert run.data.tags[names.TAG_VERDICT] == "drift"
    assert run.data.metrics["psi_range_6"] == moved.report.rows[0].psi > 1


def test_what_cannot_be_compared_is_said(monitored: Stand, tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(DataError, match="no kept predictions"):
        drift(tmp_path, data_root=data_root)
    X = np.load(data_root / "labeled_windows" / "v1" / "X_ohlc.npy")
    serve_windows(tmp_path / "few", X[:50])
    with in_folder(tmp_path), pytest.raises(DataError, match="blocks"):
        drift(tmp_path / "few", data_root=data_root)
    wrong = pd.DataFrame({"request_id": ["nobody"], "row": [0], "label": [1]})
    wrong.to_csv(tmp_path / "labels.csv", index=False)
    serve_windows(tmp_path / "many", X[:300])
    with in_folder(tmp_path), pytest.raises(DataError, match=r"1 labels, 0 of windows"):
        drift(tmp_path / "many", data_root=data_root, labels=tmp_path / "labels.csv")


def test_labels_of_numbered_requests_are_matched_and_doubles_are_named(
    monitored: Stand, tmp_path: Path, data_root: Path
) -> None:
    X = np.load(data_root / "labeled_windows" / "v1" / "X_ohlc.npy")
    serve_windows(tmp_path / "kept", X[:300], request_id="{}")
    labels = tmp_path / "labels.csv"
    rows = [{"request_id": 10, "row": row, "label": row % 2} for row in range(10)]
    pd.DataFrame(rows).to_csv(labels, index=False)

    def compare() -> DriftSummary:
        with in_folder(tmp_path):
            return drift(tmp_path / "kept", data_root=data_root, labels=labels)

    assert compare().num_labelled == 10
    pd.DataFrame([*rows, rows[3]]).to_csv(labels, index=False)
    with pytest.raises(DataError, match=r"labels\.csv holds row 3 of request '10' more than once"):
        compare()
    pd.DataFrame([{**rows[0], "label": "up"}]).to_csv(labels, index=False)
    with pytest.raises(
        DataError, match=r"label 'up' in row 0 is no class; expected .* from 0 to 1"
    ):
        compare()
    pd.DataFrame([{**rows[0], "row": "first"}]).to_csv(labels, index=False)
    with pytest.raises(DataError, match=r"labels\.csv cannot be read: .*'first'"):
        compare()
    pd.DataFrame(rows).to_csv(labels, index=False)
    serve_windows(tmp_path / "kept", X[:20], request_id="10")
    with pytest.raises(DataError, match="what was kept holds row 0 of request '10' more than once"):
        compare()
