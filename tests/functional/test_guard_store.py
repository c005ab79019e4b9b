"""The guarded registry store without a server: what it leaves alone, and killed at any moment."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from pathlib import Path

import pytest
from guard_world import local_guard
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from promotion_kit import (
    NAME,
    copied_client,
    evaluate,
    forget_connections,
    killed,
    look_at,
    make_version,
    trusting,
)

from moola.config.promotion import TAG_PROMOTION_EVIDENCE
from moola.errors import ConfigError
from moola.promotion.evidence import sign, verify
from moola.promotion.guard_artifacts import guarded
from moola.promotion.guard_registry import GuardedRegistryStore
from moola.promotion.keys import ensure_signing_key, load_signing_key
from moola.promotion.ledger import Ledger
from moola.promotion.lines import open_intent
from moola.promotion.state import read_state

pytestmark = pytest.mark.usefixtures("quick_client")


def test_models_outside_the_policy_are_left_alone(template_db: Path, tmp_path: Path) -> None:
    client = copied_client(template_db, tmp_path)
    for name in (NAME, "Free"):
        make_version(client, tmp_path, name=name)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    store = GuardedRegistryStore(address, guard=local_guard(tmp_path, models=(NAME,)))
    store.transition_model_version_stage("Free", "1", "Production", False)
    store.set_registered_model_alias("Free", "production", "1")
    with pytest.raises(MlflowException, match="not renamed"):
        store.rename_registered_model("Free", NAME)
    store.delete_registered_model_alias("Free", "production")
    store.transition_model_version_stage("Free", "1", "None", False)
    store.delete_model_version("Free", "1")
    store.delete_registered_model("Free")
    with pytest.raises(MlflowException, match="carries no evidence"):
        store.set_registered_model_alias(NAME, "production", "1")


@pytest.mark.parametrize("alias", ["champion", "Production", "CHAMPION"])
def test_a_rename_carries_no_protected_alias_under_guard(
    template_db: Path, tmp_path: Path, alias: str
) -> None:
    client = copied_client(template_db, tmp_path)
    make_version(client, tmp_path, name="Free")
    guard = local_guard(tmp_path, models=("Guarded",), protected_aliases=("production", "champion"))
    store = GuardedRegistryStore(f"sqlite:///{tmp_path}/mlflow.db", guard=guard)
    store.set_registered_model_alias("Free", alias, "1")
    with pytest.raises(MlflowException, match=f"Free has alias {alias}; not renamed to Guarded"):
        store.rename_registered_model("Free", "Guarded")
    store.rename_registered_model("Free", "Free too")
    store.delete_registered_model_alias("Free too", alias)
    store.rename_registered_model("Free too", "Guarded")


def test_a_repository_without_the_methods_the_guard_overrides_is_refused(tmp_path: Path) -> None:
    class Renamed(LocalArtifactRepository):
        _publish_staged_artifact = None

    assert guarded(LocalArtifactRepository, local_guard(tmp_path))
    with pytest.raises(ConfigError, match="lacks _publish_staged_artifact"):
        guarded(Renamed, local_guard(tmp_path))


def agreed(client: MlflowClient, ledger: Ledger) -> str | None:
    """Return the champion if alias, stage and ledger name the same one."""
    state = read_state(client, NAME)
    assert state.champion == ledger.champion_at(NAME)
    assert open_intent(ledger.entries(NAME)) is None
    return state.champion


def test_a_server_killed_at_random_moments_moves_all_or_nothing(
    template_db: Path, tmp_path: Path
) -> None:
    client = copied_client(template_db, tmp_path)
    key = load_signing_key(tmp_path, env={}) if ensure_signing_key(tmp_path) else None
    assert key is not None
    make_version(client, tmp_path)
    evidence = verify(evaluate(client, key, "1"), trusting(key))
    address = f"sqlite:///{tmp_path}/mlflow.db"
    ledger = Ledger(address)
    look_at(ledger, key, "1", evidence)
    passed = {"purpose": "promotion", "promotion_verdict": "passed", "test_looks": 1}
    promotion = dataclasses.replace(evidence, evaluated_at=evidence.created_at, **passed)
    client.set_model_version_tag(NAME, "1", TAG_PROMOTION_EVIDENCE, sign(promotion, key).to_json())

    def server_dies_after(seconds: float) -> None:
        forget_connections(tmp_path)
        store = GuardedRegistryStore(address, guard=local_guard(tmp_path))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, like kill -9
        signal.setitimer(signal.ITIMER_REAL, seconds)
        store.set_registered_model_alias(NAME, "production", "1")
        os._exit(0)

    moments = random.Random(3)
    ends = []
    for _ in range(25):
        ends.append(killed(server_dies_after, moments.uniform(0.0005, 0.06)))
        if agreed(client, ledger) is not None:
            break
    assert -signal.SIGALRM in ends
    killed(server_dies_after, 30.0)
    assert agreed(client, ledger) == "1"
    ledger.verify_chain()
