"""The guarded tracking store: what made a version that held Production stays as it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from moola.promotion.guard.census import TRACKING, close_unknown
from moola.promotion.guard.core import Guard, deny
from moola.tracking.store import lost_race

# Methods whose first argument is a run or a logged model that they change.
_RUN_WRITES = (
    "update_run_info",
    "delete_run",
    "log_param",
    "set_tag",
    "delete_tag",
    "log_inputs",
    "record_logged_model",
)
_MODEL_WRITES = (
    "delete_logged_model",
    "finalize_logged_model",
    "log_logged_model_params",
    "delete_logged_model_tag",
)


class GuardedTrackingStore(SqlAlchemyStore):
    """MLflow's tracking store under a `Guard`.

    Parameters
    ----------
    db_uri, artifact_uri
        As for MLflow's store.
    guard
        The rules.
    """

    def __init__(self, db_uri: str, artifact_uri: str | None, *, guard: Guard):
        super().__init__(db_uri, artifact_uri)
        self.guard = guard

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: Any = None
    ) -> str:
        """Create an experiment whose files have a place of their own below the artifact root."""
        if artifact_location:
            places = [*self._experiment_places(), *self.guard.frozen().places]
            if why := self.guard.places.why_not_new(artifact_location, places):
                deny(f"artifact_location {artifact_location!r} {why}; leave it out")
        return super().create_experiment(name, artifact_location, tags)

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment that holds nothing frozen."""
        # MLflow takes ` 1`, `+1` and `01` for 1: the store's own object has the one spelling.
        identity = str(self.get_experiment(experiment_id).experiment_id)
        if identity in self.guard.frozen().experiments:
            deny(f"experiment {identity} holds the run of a version that held Production")
        super().delete_experiment(identity)

    def create_run(self, experiment_id: str, *args: Any, **kwargs: Any) -> Any:
        """Create a run, but none whose files would lie inside frozen ones."""
        self._refuse_frozen_experiment(experiment_id)
        return super().create_run(experiment_id, *args, **kwargs)

    def log_metric(self, run_id: str, metric: Any) -> None:
        """Log a metric of a run and a logged model that are not frozen."""
        self._refuse_frozen("log_metric", runs=(run_id,), models=(metric.model_id,))
        super().log_metric(run_id, metric)

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        """Log metrics, params and tags of a run and of logged models that are not frozen."""
        self._refuse_frozen("log_batch", runs=(run_id,), models=(m.model_id for m in metrics))
        super().log_batch(run_id, metrics, params, tags)

    def log_outputs(self, run_id: str, models: Any) -> None:
        """Log which logged models a run made, none of them frozen."""
        self._refuse_frozen("log_outputs", runs=(run_id,), models=(m.model_id for m in models))
        super().log_outputs(run_id, models)

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Create a logged model of a run that is not frozen, its files apart from frozen ones."""
        self._refuse_frozen("create_logged_model", runs=(source_run_id,))
        self._refuse_frozen_experiment(experiment_id)
        return super().create_logged_model(experiment_id, name, source_run_id, *args, **kwargs)

    def set_logged_model_tags(self, model_id: str, tags: Any) -> None:
        """Tag a logged model; a frozen one takes only MLflow's own note of its versions."""
        if model_id in self.guard.frozen().models and not self._notes_versions(model_id, tags):
            self._refuse_frozen("set_logged_model_tags", models=(model_id,))
        super().set_logged_model_tags(model_id, tags)

    def link_traces_to_run(self, trace_ids: Any, run_id: str) -> None:
        """Link traces to a run that is not frozen."""
        self._refuse_frozen("link_traces_to_run", runs=(run_id,))
        super().link_traces_to_run(trace_ids, run_id)

    def unlink_traces_from_run(self, trace_ids: Any, run_id: str) -> None:
        """Unlink traces from a run that is not frozen."""
        self._refuse_frozen("unlink_traces_from_run", runs=(run_id,))
        super().unlink_traces_from_run(trace_ids, run_id)

    def _refuse_frozen(
        self, method: str, *, runs: Iterable[str | None] = (), models: Iterable[str | None] = ()
    ) -> None:
        frozen = self.guard.frozen()
        for run_id in frozen.runs.intersection(runs):
            deny(f"run {run_id} made a version that held Production; it is frozen ({method})")
        for model_id in frozen.models.intersection(models):
            deny(f"logged model {model_id} is a version that held Production; frozen ({method})")

    def _refuse_frozen_experiment(self, experiment_id: str) -> None:
        """Refuse an experiment, older than this rule, that keeps its files inside frozen ones."""
        frozen = self.guard.frozen()
        if not frozen.places:
            return
        location = self.get_experiment(experiment_id).artifact_location
        if frozen.contains(self.guard.places.of(location)):
            deny(f"experiment {experiment_id} keeps its files inside those of a frozen version")

    def _experiment_places(self) -> list[str]:
        with self.engine.connect() as connection:
            return [a for a in connection.scalars(sa.select(SqlExperiment.artifact_location)) if a]

    def _notes_versions(self, model_id: str, tags: Any) -> bool:
        """Return whether tags only name versions that were registered from a logged model."""
        from mlflow.server import handlers

        registry = handlers._get_model_registry_store()
        try:
            (tag,) = tags
            noted = json.loads(tag.value) if tag.key == MLFLOW_MODEL_VERSIONS else [{}]
            sources = [registry.get_model_version(n["name"], n["version"]).source for n in noted]
        except (ValueError, TypeError, KeyError, RecursionError, MlflowException):
            return False
        return all(source == f"models:/{model_id}" for source in sources)


def _guard_run(method: str) -> Any:
    original = getattr(SqlAlchemyStore, method)
    if method == "log_inputs":
        original = _again_after_a_race(original)

    def guarded(self: GuardedTrackingStore, run_id: str, *args: Any, **kwargs: Any) -> Any:
        self._refuse_frozen(method, runs=(run_id,))
        return original(self, run_id, *args, **kwargs)

    return guarded


def _again_after_a_race(original: Any) -> Any:
    """Repeat a call that lost a race: of two that log a new data set at once, MLflow fails one."""

    def repeated(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except MlflowException as error:
            if not lost_race(error):
                raise
            return original(*args, **kwargs)

    return repeated


def _guard_model(method: str) -> Any:
    original = getattr(SqlAlchemyStore, method)

    def guarded(self: GuardedTrackingStore, model_id: str, *args: Any, **kwargs: Any) -> Any:
        self._refuse_frozen(method, models=(model_id,))
        return original(self, model_id, *args, **kwargs)

    return guarded


for _method in _RUN_WRITES:
    setattr(GuardedTrackingStore, _method, _guard_run(_method))
for _method in _MODEL_WRITES:
    setattr(GuardedTrackingStore, _method, _guard_model(_method))
UNKNOWN_METHODS = close_unknown(GuardedTrackingStore, TRACKING, deny)
