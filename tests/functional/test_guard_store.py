"""The guarded registry store without a server: what it leaves alone, and killed at any moment."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_world import local_guard
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersionTag
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

from moola.config import names
from moola.config.policy import Policy
from moola.config.promotion import TAG_PROMOTION_EVIDENCE
from moola.errors import ConfigError
from moola.promotion.evidence.attestation import Evidence, sign, verify
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key
from moola.promotion.guard.artifacts import guarded
from moola.promotion.guard.registry import GuardedRegistryStore
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.local import LocalLedger
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


def test_without_a_policy_file_moolas_models_are_guarded_and_others_reported(
    template_db: Path, tmp_path: Path
) -> None:
    client = copied_client(template_db, tmp_path)
    for name in ("Early", "Theirs", "Ours", NAME):
        make_version(client, tmp_path, name=name)
    client.set_model_version_tag("Early", "1", names.TAG_MODEL_DIGEST, "d")
    client.register_prompt("Words", "Say {{ word }}.")
    guard = local_guard(tmp_path)
    guard.policy = Policy.without_file()
    guard.note_existing()
    store = GuardedRegistryStore(f"sqlite:///{tmp_path}/mlflow.db", guard=guard)
    store.set_model_version_tag("Ours", "1", ModelVersionTag(names.TAG_MODEL_DIGEST, "d"))
    client.delete_model_version_tag("Early", "1", names.TAG_MODEL_DIGEST)
    assert {name: guard.kind(name) for name in ("Early", "Theirs", "Ours", NAME, "Words")} == {
        "Early": "moola", "Theirs": "model", "Ours": "moola", NAME: "moola", "Words": "prompt",
    }  # fmt: skip
    for name in ("Early", "Ours", NAME):  # no tag taken off sets it free
        with pytest.raises(MlflowException, match="carries no evidence"):
            store.set_registered_model_alias(name, "production", "1")
    store.set_registered_model_alias("Theirs", "production", "1")
    store.set_registered_model_alias("Words", "production", "1")
    store.delete_registered_model("Words")
    store.create_registered_model("Words")  # now a model
    assert guard.kind("Words") == "model"
    observed = guard.ledger.entries(events=("observed",))
    assert [(entry.name, entry.payload["alias"]) for entry in observed] == [
        ("Theirs", "production")
    ]
    assert "no test run is attested" in observed[0].reason


def test_gates_in_report_mode_are_asked_and_written_down(template_db: Path, tmp_path: Path) -> None:
    client = copied_client(template_db, tmp_path)
    make_version(client, tmp_path)
    guard = local_guard(tmp_path)
    gates = {"name": "gates", "mode": "report", "require": [{"profile": "ohlc"}]}
    guard.policy = Policy.from_values({"version": 2, "rules": [gates]})
    store = GuardedRegistryStore(f"sqlite:///{tmp_path}/mlflow.db", guard=guard)
    store.set_registered_model_alias(NAME, "production", "1")
    store.transition_model_version_stage(NAME, "1", "Production", False)
    store.transition_model_version_stage(NAME, "1", "Archived", False)
    store.set_registered_model_alias(NAME, "Champion", "1")
    lines = guard.ledger.entries(NAME)
    assert [line.event for line in lines] == ["observed", "observed", "reported", "observed"]
    assert all("carries no evidence" in lines[at].reason for at in (0, 1, 3))
    assert "looks like a protected one" in lines[3].reason


def test_who_registered_a_version_is_known_after_a_rename(
    template_db: Path, tmp_path: Path
) -> None:
    client = copied_client(template_db, tmp_path)
    make_version(client, tmp_path, name="Free")
    guard = local_guard(tmp_path, models=(NAME,))
    guard.ledger.note_origin("Free", "1", kind="version", who="ann")
    store = GuardedRegistryStore(f"sqlite:///{tmp_path}/mlflow.db", guard=guard)
    store.rename_registered_model("Free", "Other")
    assert guard.registered_by("Other", "1", None) == "ann"


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
    ledger = LocalLedger(address)
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


@dataclasses.dataclass
class Ready:
    """A version with evidence for Production, and the guarded store that is going to be asked."""

    store: GuardedRegistryStore
    client: MlflowClient
    files: Path
    promotion: Evidence
    key: Ed25519PrivateKey

    def ask(self) -> str:
        """Ask for Production and return the refusal."""
        with pytest.raises(MlflowException) as refused:
            self.store.set_registered_model_alias(NAME, "production", "1")
        assert refused.value.get_http_status_code() == 403
        assert read_state(self.client, NAME).alias_version is None
        return str(refused.value)

    def sign(self, **changes: object) -> None:
        evidence = dataclasses.replace(self.promotion, **changes)
        text = sign(evidence, self.key).to_json()
        self.client.set_model_version_tag(NAME, "1", TAG_PROMOTION_EVIDENCE, text)


@pytest.fixture
def ready(template_db: Path, tmp_path: Path) -> Ready:
    client = copied_client(template_db, tmp_path)
    key = load_signing_key(tmp_path, env={}) if ensure_signing_key(tmp_path) else None
    assert key is not None
    make_version(client, tmp_path)
    evidence = verify(evaluate(client, key, "1"), trusting(key))
    guard = local_guard(tmp_path)
    look_at(guard.ledger, key, "1", evidence)
    store = GuardedRegistryStore(f"sqlite:///{tmp_path}/mlflow.db", guard=guard)
    place = client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
    passed = {"purpose": "promotion", "promotion_verdict": "passed", "test_looks": 1}
    promotion = dataclasses.replace(evidence, evaluated_at=evidence.created_at, **passed)
    made = Ready(store, client, Path(place), promotion, key)
    made.sign()
    return made


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "2"}, "not version 1"),
        ({"name": "Else"}, "about version 1 of Else"),
        ({"run_id": "r"}, "about run r"),
        ({"champion": "7"}, "compared with version 7"),
        ({"verdicts": {"0": "passed"}}, "gate 1 is absent"),
        ({"purpose": "evaluation"}, "promotion gate on the locked"),
        ({"test_looks": 0}, "judged as look 0"),
    ],
)
def test_no_file_is_touched_for_evidence_that_cannot_carry_the_version(
    ready: Ready, changes: dict, why: str
) -> None:
    ready.sign(**changes)
    weights = ready.files / "weights.safetensors"
    weights.unlink()
    os.mkfifo(weights)  # whoever opened it would wait for ever
    assert why in ready.ask()


def test_a_file_changed_after_it_was_read_is_seen_in_the_transaction(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ready.store._moves._read
    weights = ready.files / "weights.safetensors"

    def then_changed(case: Any) -> Any:
        state = read(case)
        times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
        weights.write_bytes(b"x" * weights.stat().st_size)
        os.utime(weights, ns=times)  # its size and time are as before
        return state

    monkeypatch.setattr(ready.store._moves, "_read", then_changed)
    assert "its files changed while they were checked" in ready.ask()
    monkeypatch.undo()
    assert "changed after the evaluation" in ready.ask()


def test_evidence_replaced_after_the_files_were_read_is_seen(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ready.store._moves._read

    def then_replaced(case: Any) -> Any:
        state = read(case)
        ready.sign(asked_by="somebody else")
        return state

    monkeypatch.setattr(ready.store._moves, "_read", then_replaced)
    assert "evidence was replaced while its files were read" in ready.ask()


def test_a_version_outside_the_artifact_store_is_not_fetched(ready: Ready) -> None:
    for address in (
        "s3://elsewhere/model",
        "gs://elsewhere/model",
        "https://elsewhere/model",
        "/etc",
    ):
        with ready.store.engine.begin() as connection:
            change = sa.text("UPDATE model_versions SET storage_location = :a, source = :a")
            connection.execute(change, {"a": address})
        assert "an address in this server's artifact store" in ready.ask()


def test_the_files_of_one_user_are_read_one_version_at_a_time(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moola.promotion.guard.core._LONGEST_WAIT_SECONDS", 0.01)
    with ready.store.guard.reading_files("server"):
        assert "still being checked" in ready.ask()
    with ready.store.guard.reading_files("somebody else"):
        ready.store.set_registered_model_alias(NAME, "production", "1")
    assert read_state(ready.client, NAME).champion == "1"
