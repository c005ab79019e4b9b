"""A version: made of a trained model, found again with the way it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, one_line
from moola.models.checkpoint import read_config
from moola.promotion.digest import downloaded, model_files_digest, version_digest
from moola.promotion.state import all_versions
from moola.serving.pyfunc import checkpoint_of
from moola.tracking.mlflow_run import TrackedRun

TRAINED_AS = "trained_as"  # key of the checkpoint's config.json, which the digest covers


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered version and how it was trained, as its own files state."""

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
    """Return a registered version with the configuration that its own files state.

    Digest and configuration are read from one copy of the files, so that evidence about the digest
    is evidence about the configuration.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version; None takes the newest.

    Returns
    -------
    Candidate
        The version.

    Raises
    ------
    ConfigError
        If there is no such version, or its files do not state how it was trained.
    PromotionRefused
        If it has no files.
    """
    try:
        if version is None:
            found = all_versions(client, name)
            if not found:
                raise ConfigError(
                    f"registered model {name!r} has no version",
                    remedy="Train a candidate first: `moola train`",
                )
            version = str(max(int(v.version) for v in found))
        run_id = client.get_model_version(name, version).run_id
    except MlflowException as error:
        known = sorted(int(v.version) for v in all_versions(client, name))
        raise ConfigError(
            f"version {version} of {name!r} cannot be read: {one_line(error)}",
            limit=f"one of {', '.join(map(str, known)) or 'none registered yet'}",
        ) from None
    with downloaded(client, name, version) as folder:
        digest = model_files_digest(folder)
        stated = read_config(checkpoint_of(folder)).get(TRAINED_AS)
    if not isinstance(stated, Mapping):
        raise ConfigError(
            f"version {version} of {name!r} does not state how it was trained",
            limit=f"{TRAINED_AS} in its checkpoint's config.json",
            remedy="Train it again with `moola train`: older versions stated it elsewhere",
        )
    return Candidate(
        name=name,
        version=version,
        run_id=str(run_id),
        model_sha256=digest,
        config=FinetuneConfig.from_mapping(stated),
    )
