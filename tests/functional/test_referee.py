"""The referee scores a version itself: real weights, the real locked test windows, a real store."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow.exceptions import MlflowException
from promotion_kit import (
    NAME,
    copied_client,
    evaluate,
    look_at,
    make_packaged_version,
    trusting,
)

from moola.config.policy import Policy
from moola.config.promotion import TAG_PROMOTION_EVIDENCE, TRUSTED_FOLDER, PromotionPolicy
from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.evaluation.metrics import compute_metrics
from moola.promotion.evidence.attestation import Evidence, sign, verify
from moola.promotion.evidence.keys import trust
from moola.promotion.guard.core import Guard
from moola.promotion.guard.registry import GuardedRegistryStore
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.versions.fetched import fetched
from moola.promotion.versions.referee import disagreements
from moola.promotion.versions.referee_score import score
from moola.serving.scoring import WindowScorer
from moola.training.finetune import build_model
from moola.training.stored_config import TRAINED_AS

KEY = Ed25519PrivateKey.generate()
LABELED, SPLIT = "labeled_windows/v1", "fwd_chain_v3"


@pytest.fixture(scope="module")
def checkpoint(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model that has seen a few train windows once."""
    registry = DataStore(data_root)
    windows, split = registry.load_set(LABELED), registry.load_split(SPLIT)
    few = split.train[:64]
    config = FinetuneConfig(preset="compact", epochs=1, patience=0, seed=1, device="cpu")
    model = build_model(config, "cpu").fit(windows.X_ohlc[few], windows.y[few])
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    stated = {
        "temperature": 1.5,
        "class_names": ["consolidation", "expansion"],
        "conformal": {"threshold": 0.4, "level": 0.9, "num_windows": 64},
        TRAINED_AS: config.to_dict(),
    }
    model.save(folder, extra=stated)
    return folder


@pytest.fixture(scope="module")
def scored(
    checkpoint: Path,
    data_root: Path,
    template_db: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    client = copied_client(template_db, tmp_path_factory.mktemp("scored"))
    version = make_packaged_version(client, checkpoint)
    with fetched(client, NAME, version) as folder:
        return score(str(folder), data_root=str(data_root), labeled=LABELED, split=SPLIT)


def test_the_referee_scores_as_the_served_model_does(
    checkpoint: Path, data_root: Path, scored: dict[str, Any]
) -> None:
    registry = DataStore(data_root)
    windows, test = registry.load_set(LABELED), registry.load_split(SPLIT).test
    served = WindowScorer.load(checkpoint).probabilities(windows.X_ohlc[test])
    assert scored["num_windows"] == len(test)
    assert scored["metrics"] == pytest.approx(compute_metrics(windows.y[test], served), abs=1e-6)


class Office:
    """A guarded registry with a referee, and one version whose evidence can be chosen."""

    def __init__(self, folder: Path, template_db: Path, checkpoint: Path, scored: dict[str, Any]):
        self.folder, self.scored = folder, scored
        self.client = copied_client(template_db, folder)
        make_packaged_version(self.client, checkpoint)
        self.ledger = LocalLedger(f"sqlite:///{folder}/mlflow.db")
        trust(folder / TRUSTED_FOLDER, KEY.public_key())
        self.evaluation = verify(evaluate(self.client, KEY, "1"), trusting(KEY))

    def evidence(self, **changes: object) -> Evidence:
        digests = {k: self.scored[k] for k in ("labeled_sha256", "split_sha256")}
        values = {
            "purpose": "promotion",
            "data": {"labeled": LABELED, "split": SPLIT, **digests},
            "promotion_verdict": "passed",
            "promotion_figures": {"metrics": self.scored["metrics"]},
            "test_looks": 1,
            "evaluated_at": self.evaluation.created_at,
            **changes,
        }
        return dataclasses.replace(self.evaluation, **values)

    def ask(self, evidence: Evidence, **policy: object) -> None:
        """Promote by the guarded store itself, as every route of the server does."""
        look_at(self.ledger, KEY, "1", self.evaluation, split_sha256=evidence.data["split_sha256"])
        signed = sign(evidence, KEY).to_json()
        self.client.set_model_version_tag(NAME, "1", TAG_PROMOTION_EVIDENCE, signed)
        guard = Guard(
            policy=Policy.for_ohlc(PromotionPolicy(**policy)),
            trusted_folder=self.folder / TRUSTED_FOLDER,
            ledger=self.ledger,
            artifacts_destination=str(self.folder),
            artifact_root=str(self.folder),
            lock_file=self.folder / "lock",
        )
        store = GuardedRegistryStore(f"sqlite:///{self.folder}/mlflow.db", guard=guard)
        store.set_registered_model_alias(NAME, "production", "1")


def test_figures_the_referee_finds_too_pass_and_others_do_not(
    tmp_path: Path, template_db: Path, data_root: Path, checkpoint: Path, scored: dict[str, Any]
) -> None:
    office = Office(tmp_path, template_db, checkpoint, scored)
    better = scored["metrics"] | {"log_loss": scored["metrics"]["log_loss"] - 0.01}
    lie = office.evidence(promotion_figures={"metrics": better})
    with pytest.raises(MlflowException, match=r"the referee disagrees.*log_loss is 0\.\d+, scored"):
        office.ask(lie, referee_data=str(data_root))
    assert office.ledger.champion_at(NAME) is None
    assert office.ledger.entries(NAME)[-1].event == "refusal"
    office.ask(office.evidence(test_looks=2), referee_data=str(data_root))
    assert office.ledger.champion_at(NAME) == "1"


@pytest.mark.slow
def test_a_referee_out_of_memory_or_time_refuses(
    tmp_path: Path, template_db: Path, data_root: Path, checkpoint: Path, scored: dict[str, Any]
) -> None:
    office = Office(tmp_path, template_db, checkpoint, scored)
    with pytest.raises(MlflowException, match="the referee cannot score the version"):
        office.ask(office.evidence(), referee_data=str(data_root), referee_memory_mib=1)
    with pytest.raises(MlflowException, match=r"the referee (cannot|did not finish)"):
        office.ask(office.evidence(test_looks=2), referee_data=str(data_root), referee_seconds=1)
    assert office.ledger.champion_at(NAME) is None


def test_disagreements_name_digests_and_figures(scored: dict[str, Any]) -> None:
    def reasons(metrics: object, **data: str) -> list[str]:
        digests = {k: scored[k] for k in ("labeled_sha256", "split_sha256")} | data
        evidence = dataclasses.replace(EMPTY, data=digests, promotion_figures={"metrics": metrics})
        return disagreements(scored, evidence, tolerance=1e-3)

    metrics = scored["metrics"]
    assert reasons(metrics) == []
    assert reasons(metrics | {"brier": metrics["brier"] + 0.0009}) == []
    assert len(reasons(metrics | {"brier": metrics["brier"] + 0.0011})) == 1
    assert len(reasons(metrics | {"brier": float("nan")})) == 1
    assert len(reasons(metrics | {"invented": 1.0})) == 1
    assert len(reasons({k: v for k, v in metrics.items() if k != "ece"})) == 1
    assert reasons(metrics, split_sha256="9" * 64)[0].startswith("split_sha256 is 999999999999")
    assert reasons(None) == ["the evidence holds no metrics of the locked test windows"]


EMPTY = Evidence(
    purpose="promotion",
    name=NAME,
    version="1",
    run_id="",
    gates_run_id="",
    model_sha256="",
    model="",
    uses_encoder=False,
    uses_synthetic=False,
    data={},
    thresholds_sha256="",
    verdicts={},
    figures={},
    required_gates=(),
    report_sha256="",
    created_at="",
    key_id="",
)
