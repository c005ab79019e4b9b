"""What the registry says about Production, and moving it: stage and alias together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moola.config.names import ALIAS_PRODUCTION, STAGE_ARCHIVED, STAGE_PRODUCTION
from moola.errors import Unsettled
from moola.promotion.calls import mlflow_call

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True, kw_only=True)
class RegistryState:
    """Who holds Production of one registered model, by alias and by stage."""

    name: str
    alias_version: str | None
    stage_versions: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether alias and stage name the same version, or neither names any."""
        holders = (self.alias_version,) if self.alias_version else ()
        return holders == self.stage_versions

    @property
    def champion(self) -> str | None:
        """The version in Production; raises Unsettled if alias and stage disagree."""
        if not self.agrees:
            holders = ", ".join(self.stage_versions) or "no version"
            raise Unsettled(
                f"alias {ALIAS_PRODUCTION} of {self.name} names version {self.alias_version}, "
                f"stage {STAGE_PRODUCTION} is held by {holders}",
                limit="one and the same version",
                remedy="Run `moola rollback --to VERSION`, or take alias and stage off both",
            )
        return self.alias_version


def read_state(client: MlflowClient, name: str) -> RegistryState:
    """Ask the registry who holds Production.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.

    Returns
    -------
    RegistryState
        The holders of alias and stage.

    Raises
    ------
    PromotionRefused
        If there is no such registered model.
    TrackingError
        If the registry cannot be reached or may not be read.
    """
    with mlflow_call(f"registered model {name}", reads=True):
        alias = client.get_registered_model(name).aliases.get(ALIAS_PRODUCTION)
    holders = [v for v in all_versions(client, name) if v.current_stage == STAGE_PRODUCTION]
    return RegistryState(
        name=name,
        alias_version=None if alias is None else str(alias),
        stage_versions=tuple(sorted((str(v.version) for v in holders), key=int)),
    )


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return every version of a registered model."""
    quote = '"' if "'" in name else "'"
    versions: list[ModelVersion] = []
    token = None
    with mlflow_call(f"the versions of {name}", reads=True):
        while True:
            page = client.search_model_versions(f"name={quote}{name}{quote}", page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions


def set_stage(
    client: MlflowClient, name: str, version: str, stage: str, *, archive_existing: bool = False
) -> None:
    """Give a stage to a version, without MLflow's warning that stages are deprecated."""
    with mlflow_call(f"stage {stage} for version {version} of {name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(
            name, version, stage, archive_existing_versions=archive_existing
        )


def put_in_production(client: MlflowClient, name: str, version: str) -> None:
    """Give stage and alias to one version and archive whoever held the stage; may be repeated."""
    set_stage(client, name, version, STAGE_PRODUCTION, archive_existing=True)
    with mlflow_call(f"alias {ALIAS_PRODUCTION} for version {version} of {name}"):
        client.set_registered_model_alias(name, ALIAS_PRODUCTION, version)


def clear_production(client: MlflowClient, name: str) -> None:
    """Leave nobody in Production: used to undo a first promotion that cannot be finished."""
    state = read_state(client, name)
    with mlflow_call(f"alias {ALIAS_PRODUCTION} of {name}"):
        client.delete_registered_model_alias(name, ALIAS_PRODUCTION)
    for version in state.stage_versions:
        set_stage(client, name, version, STAGE_ARCHIVED)
