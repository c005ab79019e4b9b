"""The guarded tracking store: the run of a version that held Production stays as it was."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from moola.promotion.guard_core import Guard, deny
from moola.tracking.store import lost_race

_RUN_WRITES = (
    "update_run_info",
    "delete_run",
    "log_metric",
    "log_param",
    "set_tag",
    "delete_tag",
    "log_batch",
    "log_inputs",
    "log_outputs",
    "record_logged_model",
)
# Tags of a logged model stay free: MLflow itself notes registered versions there.
_MODEL_WRITES = ("delete_logged_model", "finalize_logged_model", "log_logged_model_params")


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
        """Create an experiment whose files lie below the server's own artifact root."""
        if artifact_location and not self._inside_root(artifact_location):
            deny(
                f"artifact_location {artifact_location!r} is outside this server's artifact root; "
                "leave it out"
            )
        return super().create_experiment(name, artifact_location, tags)

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment that holds no frozen run."""
        for run_id in self.guard.frozen().runs:
            if str(self.get_run(run_id).info.experiment_id) == str(experiment_id):
                deny(
                    f"experiment {experiment_id} holds run {run_id}, which made a version that "
                    "held Production"
                )
        super().delete_experiment(experiment_id)

    def _inside_root(self, location: str) -> bool:
        parts = urlsplit(location)
        decoded = location
        while unquote(decoded) != decoded:
            decoded = unquote(decoded)
        if ".." in decoded.replace("\\", "/").split("/") or parts.query or parts.fragment:
            return False
        if parts.scheme == "mlflow-artifacts":
            return not parts.netloc and decoded == location
        root, place = self.guard.place(self.guard.artifact_root), self.guard.place(location)
        return place == root or place.startswith(root + "/")


def _guard_run(method: str) -> Any:
    original = getattr(SqlAlchemyStore, method)
    if method == "log_inputs":
        original = _again_after_a_race(original)

    def guarded(self: GuardedTrackingStore, run_id: str, *args: Any, **kwargs: Any) -> Any:
        if run_id in self.guard.frozen().runs:
            deny(f"run {run_id} made a version that held Production; it is frozen ({method})")
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
        if model_id in self.guard.frozen().models:
            deny(f"logged model {model_id} is a version that held Production; frozen ({method})")
        return original(self, model_id, *args, **kwargs)

    return guarded


for _method in _RUN_WRITES:
    setattr(GuardedTrackingStore, _method, _guard_run(_method))
for _method in _MODEL_WRITES:
    setattr(GuardedTrackingStore, _method, _guard_model(_method))
