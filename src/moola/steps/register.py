"""A trained model as a version, and what it is in words."""

from __future__ import annotations

from collections.abc import Mapping

import mlflow

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.data.registry import DataContainer
from moola.promotion.digest import version_digest
from moola.tracking.mlflow_run import TrackedRun
from moola.training.finetune import FinetuneResult


def register(run: TrackedRun, config: FinetuneConfig, name: str, model_id: str) -> str:
    """Make a logged model the next version of a registered model; return its number."""
    version = mlflow.register_model(f"models:/{model_id}", name, await_registration_for=None)
    number = str(version.version)
    tags = {
        names.TAG_MODEL_DIGEST: version_digest(run.client, name, number),
        names.TAG_STEP: "finetune",
    }
    for key, value in tags.items():
        run.client.set_model_version_tag(name, number, key, value)
    start = "with the pretrained encoder" if config.pretrained_encoder else "from scratch"
    run.client.update_model_version(
        name,
        number,
        description=f"{config.model} ({config.preset}), {start}, on `{config.labeled}` under "
        f"`{config.split}`, seed {config.seed}. Not in Production before its gates have passed.",
    )
    if number == "1":
        run.client.update_registered_model(
            name,
            description="Classifiers of OHLC windows, one version a candidate. Production moves by "
            "`moola promote` alone, when the gates and the locked test set allow it.",
        )
    run.set_tags({names.TAG_CANDIDATE: f"{name}/{number}"})
    return number


def training_note(
    config: FinetuneConfig,
    data: DataContainer,
    result: FinetuneResult,
    metrics: Mapping[str, float | None],
) -> str:
    """Return the run in one paragraph of Markdown."""
    start = "from scratch"
    if load := result.load_report:
        start = f"from an encoder of which {load['match_ratio_encoder']:.0%} was loaded"
    proven = "proven" if result.proof and result.proof["proven"] else "not proven"
    shown = ("log_loss", "roc_auc", "balanced_accuracy", "ece")
    figures = ", ".join(f"{k} {v:.4f}" for k in shown if (v := metrics[k]) is not None)
    return (
        f"**{config.model} ({config.preset})** {start}, on `{config.labeled}` under "
        f"`{config.split}`, seed {config.seed}; freeze schedule `{config.schedule}`, {proven}. "
        f"On {len(data.y_val)} validation windows: {figures}. {len(data.y_test)} test windows "
        "have not been looked at."
    )
