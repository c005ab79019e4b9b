"""`moola promote` on a small registry: what it refuses before it looks at the locked windows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from data_kit import SPLIT, small_registry
from mlflow import MlflowClient
from promotion_kit import NAME, evaluate

from moola.config.evaluation import Thresholds
from moola.config.promotion import POLICY_FILE
from moola.config.training import FinetuneConfig
from moola.data.registry import DataRegistry
from moola.errors import DataError, PromotionRefused
from moola.promotion.keys import ensure_signing_key, load_signing_key
from moola.promotion.ledger import Ledger
from moola.steps.finetune import finetune
from moola.steps.promote import PromotionSummary, promote

LABELED = "labeled_windows/v1"
CONFIG = FinetuneConfig(
    preset="compact", labeled=LABELED, split="splits/fwd.json",
    epochs=12, patience=0, learning_rate=2e-3, device="cpu",
)  # fmt: skip


class Project:
    """A project with trained versions; their evaluations are made up, and signed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.registry: DataRegistry = small_registry(folder / "data", num_bars=1200, swing=2.0)
        self.client = MlflowClient()
        self.client.create_experiment("work", artifact_location=(folder / "work").as_uri())
        ensure_signing_key(folder)
        self.key = load_signing_key(folder, env={})

    def train(self, config: FinetuneConfig = CONFIG) -> str:
        version = finetune(config).version
        assert version is not None
        return version

    def sign(self, version: str, *, split: str = "fwd", **changes: Any) -> None:
        """Sign gates that passed on this registry's own set, some fields of the report changed."""
        windows, parts = self.registry.load_set(LABELED), self.registry.load_split(split)
        data = {
            "labeled": windows.name,
            "labeled_sha256": windows.sha256,
            "split": parts.name,
            "split_sha256": parts.digest(),
            "num_windows": 100,
        }
        document = {"data": data, "thresholds_sha256": Thresholds.load().digest(), **changes}
        evaluate(self.client, self.key, version, document=document)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[Project]:
    """A project with one trained version."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(template_db, folder / "mlflow.db")
    before = Path.cwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    made = Project(folder)
    made.train()
    yield made
    os.chdir(before)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty ledger, as if nobody had looked yet."""
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def ask(ledger: Ledger, version: str = "1", **changes: Any) -> PromotionSummary:
    return promote(version=version, ledger_url=str(ledger._engine.url), **changes)


def events(ledger: Ledger) -> list[str]:
    return [entry.event for entry in ledger.entries(NAME)]


def test_other_windows_under_the_names_of_the_evidence_are_not_looked_at(
    project: Project, ledger: Ledger, tmp_path: Path
) -> None:
    project.sign("1")
    small_registry(tmp_path / "longer", num_bars=1300, swing=2.0)
    with pytest.raises(PromotionRefused, match=r"labeled_windows/v1 below .*longer has SHA-256"):
        ask(ledger, data_root=tmp_path / "longer")
    other = small_registry(tmp_path / "parted", num_bars=1200, swing=2.0)
    (tmp_path / "parted" / "splits" / "fwd.json").unlink()
    other.build_split("fwd", replace(SPLIT, train_fraction=0.5))
    with pytest.raises(PromotionRefused, match=r"fwd below .*parted has SHA-256"):
        ask(ledger, data_root=tmp_path / "parted")
    assert events(ledger) == ["refusal", "refusal"]
    with pytest.raises(DataError):
        ask(ledger, data_root=tmp_path)
    assert events(ledger) == ["refusal", "refusal"]


def test_the_promotion_gate_judges_by_the_thresholds_of_the_other_gates(
    project: Project, ledger: Ledger
) -> None:
    project.sign("1")
    kinder = replace(Thresholds.load(), margin_log_loss=1.0)
    with pytest.raises(PromotionRefused, match="promotion gate would judge by thresholds"):
        ask(ledger, thresholds=kinder)
    assert events(ledger) == ["refusal"]
    project.sign("1", thresholds_sha256=kinder.digest())
    with pytest.raises(PromotionRefused, match="promotion gate would judge by thresholds"):
        ask(ledger)
    assert events(ledger) == ["refusal", "refusal"]
    assert ask(ledger, thresholds=kinder, dry_run=True).decision.allowed


def test_a_policy_that_asks_for_less_than_the_promotion_gate_spends_no_look(
    project: Project, ledger: Ledger
) -> None:
    project.sign("1", gates=[{"gate": 0, "verdict": "passed", "figures": {}, "reasons": []}])
    policy = project.folder / POLICY_FILE
    policy.write_text("required_gates: [0]\n")
    try:
        with pytest.raises(PromotionRefused, match="gate 1 must have passed, it is not run"):
            ask(ledger)
    finally:
        policy.unlink()
    assert events(ledger) == ["refusal"]
