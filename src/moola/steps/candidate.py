"""A version: made of a trained model, found again with the way it was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, one_line
from moola.promotion.digest import version_digest
from moola.promotion.state import all_versions
from moola.tracking.mlflow_run import TrackedRun


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered version and how it was trained."""

    name: str
    version: str
    run_id: str
    model_sha256: str
    config: FinetuneConfig

    @property
    def uses_encoder(self) -> bool:
        """Whether the candidate started from a pretrained encoder."""
        return self.config.pretrained_encoder is not None


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
        f"`{config.split}`, seed {config.seed}. Its gates and the locked test windows decide "
        "whether `moola promote` lets it into Production.",
    )
    if number == "1":
        run.client.update_registered_model(
            name,
            description="Classifiers of OHLC windows, one version a candidate. Production moves by "
            "`moola promote` alone, when the gates and the locked test windows allow it.",
        )
    run.set_tags({names.TAG_CANDIDATE: f"{name}/{number}"})
    return number


def find_candidate(client: MlflowClient, name: str, version: str | None) -> Candidate:
    """Return a registered version with the configuration its run logged."""
    try:
        if version is None:
            found = all_versions(client, name)
            if not found:
                raise ConfigError(
                    f"registered model {name!r} has no version",
                    remedy="Train a candidate first: `moola train`",
                )
            version = str(max(int(v.version) for v in found))
        entry = client.get_model_version(name, version)
        text = mlflow.artifacts.load_text(
            f"{client.get_run(entry.run_id).info.artifact_uri}/{names.ARTIFACT_MANIFEST}"
        )
    except MlflowException as error:
        known = sorted(int(v.version) for v in all_versions(client, name))
        raise ConfigError(
            f"version {version} of {name!r} cannot be read: {one_line(error)}",
            limit=f"one of {', '.join(map(str, known)) or 'none registered yet'}",
        ) from None
    return Candidate(
        name=name,
        version=version,
        run_id=str(entry.run_id),
        model_sha256=version_digest(client, name, version),
        config=FinetuneConfig.from_mapping(json.loads(text)["config"]),
    )
