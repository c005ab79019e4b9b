"""All of a guarded world that no request may change, read past the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from promotion_kit import NAME

# By what changed; rows that a stranger may add or change (descriptions, free tags) are left out.
_QUESTIONS = {
    "holders of Production": "SELECT name, version, current_stage FROM model_versions "
    "WHERE current_stage = 'Production'",
    "the version": "SELECT name, version, run_id, source, storage_location, current_stage, status "
    "FROM model_versions WHERE name = :name AND version = 1",
    "the model": "SELECT name FROM registered_models WHERE name = :name",
    "aliases of Production": "SELECT name, lower(alias), version FROM registered_model_aliases "
    "AS a WHERE lower(trim(alias)) = 'production' OR lower(trim(alias)) = 'live' AND version <> "
    "(SELECT version FROM registered_model_aliases WHERE name = a.name AND alias = 'production')",
    "tags of the model that MLflow reads": "SELECT key, value FROM registered_model_tags "
    "WHERE name = :name AND substr(lower(key), 1, 7) IN ('mlflow.', '_mlflow')",
    "tags of the version that MLflow reads": "SELECT key, value FROM model_version_tags "
    "WHERE name = :name AND version = 1 AND substr(lower(key), 1, 7) IN ('mlflow.', '_mlflow')",
    "moves in the ledger": "SELECT seq, event, name, version_to FROM moola_ledger "
    "WHERE event IN ('promotion', 'rollback', 'key_change', 'intent')",
    "the run": "SELECT status, lifecycle_stage, name, artifact_uri, experiment_id, start_time, "
    "end_time, user_id, source_name FROM runs WHERE run_uuid = :run",
    "tags of the run": "SELECT key, value FROM tags WHERE run_uuid = :run",
    "parameters of the run": "SELECT key, value FROM params WHERE run_uuid = :run",
    "metrics of the run": "SELECT key, value, step FROM metrics WHERE run_uuid = :run",
    "latest metrics of the run": "SELECT key, value FROM latest_metrics WHERE run_uuid = :run",
    "inputs and outputs of the run": "SELECT source_type, source_id, destination_type, "
    "destination_id FROM inputs WHERE destination_id = :run OR source_id = :run",
    "the experiment": "SELECT lifecycle_stage, artifact_location FROM experiments "
    "WHERE experiment_id = :experiment",
    "the logged model": "SELECT lifecycle_stage, status, name, artifact_location, source_run_id, "
    "model_type FROM logged_models WHERE model_id = :logged",
    "parameters of the logged model": "SELECT param_key, param_value FROM logged_model_params "
    "WHERE model_id = :logged",
    "metrics of the logged model": "SELECT metric_name, metric_value, run_id "
    "FROM logged_model_metrics WHERE model_id = :logged",
}


def frozen_rows(
    connection: sa.Connection, *, run: str, experiment: str, logged: str
) -> dict[str, list[tuple]]:
    """Return the rows that may not change, by what they are.

    They are about version 1 of the guarded model, its `run` and `experiment`, and a `logged` model
    that holds Production under another name.
    """
    asked = {"name": NAME, "run": run, "experiment": int(experiment), "logged": logged}
    found = {}
    for what, question in _QUESTIONS.items():
        bound = {key: value for key, value in asked.items() if f":{key}" in question}
        rows = connection.execute(sa.text(question), bound)
        found[what] = sorted((tuple(row) for row in rows), key=repr)
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return what differs between two states, in words; empty if nothing does."""
    parts = [
        f"{what}: {before[what]} -> {after[what]}" for what in before if before[what] != after[what]
    ]
    return "; ".join(parts)
