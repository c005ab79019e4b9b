"""``mlflow models serve`` answers what the model answers in process."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
from job_kit import TINY, mlflow_process

from moola.config import names
from moola.steps.finetune import finetune


def test_served_probabilities_equal_in_process_ones(project: Path, data_root: Path) -> None:
    summary = finetune(TINY)
    X = np.load(data_root / "labeled_windows" / "v1" / "X_ohlc.npy")[[0, 500, -1]]
    expected = summary.result.model.predict_proba(X)
    assert summary.calibration.temperature == 1.0
    uri = f"models:/{names.REGISTERED_MODEL}/{summary.version}"
    command = ["models", "serve", "-m", uri, "--env-manager", "local", "-h", "127.0.0.1"]
    with mlflow_process(
        *command, "-p", "{port}", ready="/ping",
        MLFLOW_TRACKING_URI=f"sqlite:///{project}/mlflow.db",
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    ) as url:  # fmt: skip
        request = urllib.request.Request(
            f"{url}/invocations",
            data=json.dumps({"inputs": X.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            rows = json.loads(response.read())["predictions"]
    answered = [[r["probability_consolidation"], r["probability_expansion"]] for r in rows]
    assert np.abs(np.array(answered) - expected).max() < 1e-6
    assert {r["model_version"] for r in rows} == {summary.version}
    assert [r["label"] for r in rows] == expected.argmax(axis=1).tolist()
