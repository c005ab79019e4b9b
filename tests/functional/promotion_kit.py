"""A real MLflow store with small real versions and signed evidence, for the promotion tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient

from moola.config.names import ARTIFACT_GATE_REPORT
from moola.config.promotion import PromotionPolicy
from moola.promotion.decision import Decision, Look, PromotionGate
from moola.promotion.evidence.attestation import (
    Evidence,
    SignedEvidence,
    evidence_from_report,
    sign,
    store_evidence,
)
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.belief import signed_look
from moola.promotion.ledger.entry import Draft, Entry
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.production import Production
from moola.promotion.state import read_state
from moola.promotion.versions.digest import version_digest
from moola.serving.pyfunc import log_model

NAME = "EnhancedSimpleLSTM"
MLMODEL = "flavors:\n  python_function:\n    loader_module: net\nmodel_uuid: {uuid}\n"
PASSED = {"gate": "promotion", "verdict": "passed", "figures": {"delta_log_loss": -0.04}}
KEY = Ed25519PrivateKey.generate()
FAILED = {"gate": "promotion", "verdict": "inconclusive", "reasons": ["the interval holds 0"]}


def copied_client(template: Path, folder: Path) -> MlflowClient:
    """Return a client of a copy of an empty store; its one experiment keeps files in `folder`."""
    shutil.copy(template, folder / "mlflow.db")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_experiment("work", artifact_location=(folder / "mlartifacts").as_uri())
    return client


def make_packaged_version(client: MlflowClient, checkpoint: Path, *, name: str = NAME) -> str:
    """Log a real checkpoint folder as `moola train` does and register it."""
    stated = json.loads((checkpoint / "config.json").read_text())
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        mlflow.set_experiment("work")
        with mlflow.start_run():
            labels = tuple(stated["class_names"])
            info = log_model(checkpoint, window_bars=stated["window_bars"], class_names=labels)
        address = f"models:/{info.model_id}"
        return str(mlflow.register_model(address, name, await_registration_for=None).version)
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # set_experiment leaves it behind


def make_version(
    client: MlflowClient, folder: Path, *, weights: str = "w", name: str = NAME
) -> str:
    """Log a folder that is no model of Moola's in a run, register it; return the version."""
    experiment = client.get_experiment_by_name("work")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    model = folder / f"model-{run.info.run_id}"
    model.mkdir()
    (model / "MLmodel").write_text(MLMODEL.format(uuid=run.info.run_id))
    (model / "weights.safetensors").write_text(weights)
    client.log_artifacts(run.info.run_id, str(model), "model")
    client.set_terminated(run.info.run_id)
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/model"
    return str(client.create_model_version(name, source, run.info.run_id).version)


def make_logged_version(client: MlflowClient, folder: Path, *, name: str = NAME) -> str:
    """As `make_version`, but from a logged model, as ``mlflow.pyfunc.log_model`` makes them."""
    experiment = client.get_experiment_by_name("work")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    logged = client.create_logged_model(experiment.experiment_id, "model", run.info.run_id)
    files = folder / f"files-{logged.model_id}"
    files.mkdir()
    (files / "MLmodel").write_text(MLMODEL.format(uuid=logged.model_id))
    (files / "weights.safetensors").write_text("w")
    client.log_model_artifacts(logged.model_id, str(files))
    client.finalize_logged_model(logged.model_id, "READY")
    client.set_terminated(run.info.run_id)
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    source = f"models:/{logged.model_id}"
    version = client.create_model_version(name, source, run.info.run_id, model_id=logged.model_id)
    return str(version.version)


def gate_report(
    client: MlflowClient,
    version: str,
    *,
    name: str = NAME,
    verdicts: tuple[str, ...] = ("passed", "passed", "passed"),
    **candidate: object,
) -> dict:
    """Return a gate report about a real version."""
    return {
        "schema_version": 1,
        "candidate": {
            "name": name,
            "version": version,
            "run_id": client.get_model_version(name, version).run_id,
            "model_sha256": version_digest(client, name, version),
            "model": "of another make",  # its files are mere words
            "uses_encoder": False,
            "uses_synthetic": False,
            **candidate,
        },
        "data": {"split": "fwd_chain_v3", "split_sha256": "5" * 64, "num_windows": 759},
        "thresholds_sha256": "7" * 64,
        "gates": [
            {
                "gate": gate,
                "name": f"g{gate}",
                "question": "?",
                "verdict": verdict,
                "figures": {"log_loss": 0.65 + gate, "delta": {"low": 0.01}},
                "thresholds": {},
                "reasons": [] if verdict == "passed" else ["too few windows"],
            }
            for gate, verdict in enumerate(verdicts)
        ],
        "created_at": datetime.now(UTC).isoformat(),
    }


def evaluate(
    client: MlflowClient,
    key: Ed25519PrivateKey,
    version: str,
    *,
    name: str = NAME,
    document: dict | None = None,
    policy: PromotionPolicy | None = None,
    **report: object,
) -> SignedEvidence:
    """Sign an evaluation of a version and store the evidence as `moola evaluate` does.

    `document` holds fields of the gate report that differ from those of `gate_report`.
    """
    experiment = client.get_experiment_by_name("work")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    content = gate_report(client, version, name=name, **report) | (document or {})
    client.log_dict(run.info.run_id, content, ARTIFACT_GATE_REPORT)
    evidence = evidence_from_report(
        content,
        gates_run_id=run.info.run_id,
        policy=policy or PromotionPolicy(),
        key=key,
        now=datetime.now(UTC),
    )
    signed = sign(evidence, key)
    store_evidence(client, signed, evidence)
    client.set_terminated(run.info.run_id)
    return signed


def trusting(*keys: Ed25519PrivateKey) -> TrustedKeys:
    """Return the trusted keys that accept these signers."""
    return TrustedKeys(keys={key_id(k.public_key()): k.public_key() for k in keys})


def forget_connections(folder: Path) -> None:
    """In a forked child: drop the parent's database connections, leave nothing outside `folder`."""
    tempfile.tempdir = str(folder)
    # The bar's lock is shared with the parent, which would wait for ever if we die with it.
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Registry, Tracking):
        for engine in store._engine_map.values():
            engine.dispose(close=False)


def killed(target: Callable[..., None], *args: object) -> int | None:
    """Run `target` in a forked child and return how it ended."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join(timeout=60)
    return process.exitcode


def looking(gate: Callable[[str | None], dict]) -> PromotionGate:
    """Return a promotion gate that is always ready and answers for a champion what `gate` does."""

    def ready(_evidence: Evidence, champion: str | None) -> Look:
        return Look(windows={}, take=lambda _num_looks: gate(champion))

    return ready


def look_at(
    ledger: Ledger,
    key: Ed25519PrivateKey,
    version: str,
    evaluation: Evidence,
    *,
    name: str = NAME,
    **windows: str,
) -> Entry:
    """Write a look into the ledger as `moola promote` does, at the split of an evaluation."""
    seen = {"split_sha256": str(evaluation.data.get("split_sha256")), **windows}

    def draft(ledger_id: str) -> Draft:
        about = {"name": name, "version": version, "evidence_digest": evaluation.digest}
        payload = signed_look(seen, **about, ledger_id=ledger_id, key=key)
        return Draft(
            event="test_look",
            who="ann",
            name=name,
            reason="r",
            version_to=version,
            evidence_digest=evaluation.digest,
            payload=payload,
        )

    return ledger.append_made(draft)


def production(
    client: MlflowClient,
    ledger: Ledger,
    keys: TrustedKeys | None = None,
    *,
    kind: type[Production] = Production,
    **changes: Any,
) -> Production:
    """Return Production of the tests' model, asked by "ann" under Moola's own policy."""
    parts = {"name": NAME, "policy": PromotionPolicy(), "who": "ann", **changes}
    return kind(client=client, ledger=ledger, keys=keys or trusting(KEY), **parts)


def ask_promotion(
    client: MlflowClient, ledger: Ledger, key: Ed25519PrivateKey, version: str, **changes: Any
) -> Decision:
    """Ask for Production; the promotion gate passes, unless `changes` hold another."""
    gate = looking(changes.pop("promotion_gate", lambda _champion: dict(PASSED)))
    asked = {name: changes.pop(name) for name in ("evidence", "dry_run") if name in changes}
    keys = changes.pop("keys", trusting(key))
    parts = production(client, ledger, keys, **{"signing_key": key, **changes})
    return parts.promote(version, gate, **asked)


def ask_rollback(
    client: MlflowClient, ledger: Ledger, key: Ed25519PrivateKey, **changes: Any
) -> Decision:
    """Ask to go back, for a reason."""
    asked = {name: changes.pop(name) for name in ("to", "reason", "dry_run") if name in changes}
    keys = changes.pop("keys", trusting(key))
    parts = production(client, ledger, keys, **{"signing_key": key, "who": "bob", **changes})
    return parts.rollback(**{"reason": "drift", **asked})


class Bench:
    """A store, its ledger, and three evaluated versions."""

    def __init__(self, template: Path, folder: Path, *, ledger: str = "mlflow.db"):
        self.folder = folder
        self.client = copied_client(template, folder)
        self.ledger_url = f"sqlite:///{folder}/{ledger}"
        self.ledger = LocalLedger(self.ledger_url)
        for number in range(3):
            make_version(self.client, folder, weights=f"w{number}")
            evaluate(self.client, KEY, str(number + 1))

    def promote(self, version: str, gate: dict = PASSED, **changes: Any) -> Decision:
        """Promote a version; `asked` holds the champions the promotion gate was asked about."""
        self.asked: list[str | None] = []

        def promotion_gate(champion: str | None) -> dict:
            self.asked.append(champion)
            return dict(gate)

        changes = {"promotion_gate": promotion_gate, **changes}
        client, ledger = changes.pop("client", self.client), changes.pop("ledger", self.ledger)
        return ask_promotion(client, ledger, KEY, version, **changes)

    def rollback(self, **changes: Any) -> Decision:
        return ask_rollback(self.client, self.ledger, KEY, **changes)

    def production(self, keys: TrustedKeys | None = None, **changes: Any) -> Production:
        return production(self.client, self.ledger, keys, **changes)

    def stages(self) -> dict[str, str]:
        versions = self.client.search_model_versions(f"name='{NAME}'")
        return {str(v.version): v.current_stage for v in versions}

    def champion(self) -> str | None:
        """Return the version in Production; alias, stage and ledger must agree on it."""
        state = read_state(self.client, NAME)
        assert state.agrees, state
        assert state.champion == self.ledger.champion_at(NAME)
        return state.champion

    def champion_by_keys(self) -> str | None:
        """As `champion`, by the moves that the gate runner signed."""
        state = read_state(self.client, NAME)
        assert state.champion == self.ledger.champion_at(NAME, keys=trusting(KEY))
        return state.champion

    def events(self) -> list[str]:
        return [entry.event for entry in self.ledger.entries(NAME)]

    def change_files(self) -> None:
        """Change the weights of version 1 on disk."""
        source = self.client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
        (Path(source) / "weights.safetensors").write_text("better weights")
