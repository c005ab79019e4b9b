"""A registered version, and how it was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError
from moola.promotion.digest import version_digest


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


def find_candidate(client: MlflowClient, name: str, version: str | None) -> Candidate:
    """Return a registered version with the configuration its run logged."""
    try:
        if version is None:
            found = client.search_model_versions(f"name='{name}'")
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
        known = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
        raise ConfigError(
            f"version {version} of {name!r} cannot be read: {str(error).splitlines()[0]}",
            limit=f"one of {', '.join(map(str, known)) or 'none registered yet'}",
        ) from None
    return Candidate(
        name=name,
        version=version,
        run_id=str(entry.run_id),
        model_sha256=version_digest(client, name, version),
        config=FinetuneConfig.from_mapping(json.loads(text)["config"]),
    )
