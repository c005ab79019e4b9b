"""A user's own classes: from the recipe's names to the served answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from job_kit import TINY
from mlflow import MlflowClient

from moola.config import names
from moola.steps.finetune import finetune


def test_own_classes_keep_their_names_in_their_order(project: Path) -> None:
    """Class 0 is the first that the recipe names, whatever the alphabet says."""
    from data_kit import RECIPE, SPLIT, hours, small_registry

    from moola.steps.predict import load_scorer

    registry = small_registry(project / "own")
    (project / "own" / "labels").mkdir()
    times = hours(400).astype("datetime64[s]")[20:380:2]
    labels = [f"{time}Z,{k % 2}" for k, time in enumerate(times)]
    (project / "own" / "labels" / "mine.csv").write_text("\n".join(["last_bar,label", *labels]))
    own = replace(RECIPE, label="file", label_file="mine.csv", class_names=("up", "down"))
    made = registry.build_set("labeled_windows/own", own)
    registry.build_split("own", replace(SPLIT, labeled="labeled_windows/own"))
    config = replace(TINY, labeled="labeled_windows/own", split="splits/own.json", epochs=1)
    summary = finetune(config, data_root=project / "own")
    run = MlflowClient().get_run(summary.run_id)
    table = pd.read_parquet(
        mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/val.parquet")
    )
    assert list(table.columns[2:4]) == ["probability_up", "probability_down"]
    scorer = load_scorer(f"models:/{names.REGISTERED_MODEL}/{summary.version}")
    answer = scorer.answer(np.asarray(made.X_ohlc[:5]))
    assert scorer.class_names == ("up", "down")
    named = {0: "up", 1: "down"}
    assert list(answer["label_name"]) == [named[label] for label in answer["label"]]
