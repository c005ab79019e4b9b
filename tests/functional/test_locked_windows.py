"""`moola promote` on a small registry: what it refuses before it looks at the locked windows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from data_kit import RECIPE, SPLIT, bars_of, small_registry, walk, write_bars
from mlflow import MlflowClient
from promotion_kit import NAME, evaluate, make_packaged_version, make_version

from moola.config.evaluation import Thresholds
from moola.config.names import ARTIFACT_GATE_REPORT, ARTIFACT_MANIFEST, TAG_GATES_RUN
from moola.config.promotion import POLICY_FILE
from moola.config.training import FinetuneConfig
from moola.data.bars import Bars
from moola.data.store.data_store import DataStore
from moola.errors import DataError, MoolaError, PromotionRefused
from moola.hashing import pretty_json
from moola.judging.candidate import find_candidate
from moola.promotion.decision import Decision, PromotionDenied
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.serving.pyfunc import checkpoint_of
from moola.steps.finetune import finetune
from moola.steps.promote import PromotionSummary, promote

FOREIGN = "flavors:\n  python_function:\n    code: code\n    loader_module: foreign\n"
LABELED = "labeled_windows/v1"
CONFIG = FinetuneConfig(
    preset="compact", labeled=LABELED, split="splits/fwd.json",
    epochs=12, patience=0, learning_rate=2e-3, device="cpu",
)  # fmt: skip


class Project:
    """A project with trained versions; their evaluations are made up, and signed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.registry: DataStore = small_registry(folder / "data", num_bars=1200, swing=2.0)
        self.client = MlflowClient()
        self.client.create_experiment("work", artifact_location=(folder / "work").as_uri())
        ensure_signing_key(folder)
        self.key = load_signing_key(folder, env={})

    def train(self, config: FinetuneConfig = CONFIG, data_root: Path = Path("data")) -> str:
        version = finetune(config, data_root=data_root).version
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

    def files(self, version: str) -> Path:
        """Return the version's files where they lie in the store."""
        address = self.client.get_model_version_download_uri(NAME, version)
        return Path(address.removeprefix("file://"))

    def like_the_first(self, folder: Path, **changes: Any) -> str:
        """Register version 1's weights again, with other words about them."""
        checkpoint = folder / "checkpoint"
        shutil.copytree(checkpoint_of(self.files("1")), checkpoint)
        config = checkpoint / "config.json"
        config.write_text(pretty_json({**json.loads(config.read_text()), **changes}))
        return make_packaged_version(self.client, checkpoint)

    def hold_production(self, version: str | None) -> None:
        """Put a version into Production by plain MLflow, or take out what is there."""
        alias = self.client.get_registered_model(NAME).aliases.get("production")
        if alias is not None:
            self.client.transition_model_version_stage(NAME, str(alias), "Archived")
            self.client.delete_registered_model_alias(NAME, "production")
        if version is not None:
            self.client.transition_model_version_stage(NAME, version, "Production")
            self.client.set_registered_model_alias(NAME, "production", version)


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
def ledger(tmp_path: Path, project: Project) -> Iterator[Ledger]:
    """An empty ledger, as if nobody had looked yet; nothing stays in Production."""
    yield LocalLedger(f"sqlite:///{tmp_path}/ledger.db")
    project.hold_production(None)


def ask(ledger: Ledger, version: str = "1", **changes: Any) -> PromotionSummary:
    return promote(version=version, ledger_url=str(ledger._engine.url), **changes)


def outcome(ledger: Ledger, version: str = "1", **changes: Any) -> Decision:
    """Ask for Production; return the decision, whatever it is."""
    try:
        return ask(ledger, version, **changes).decision
    except PromotionDenied as refusal:
        return refusal.decision


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


def test_code_beside_the_checkpoint_is_refused_and_does_not_run(
    project: Project, ledger: Ledger, tmp_path: Path
) -> None:
    version = make_packaged_version(project.client, checkpoint_of(project.files("1")))
    files = project.files(version)
    (files / "MLmodel").write_text(FOREIGN)
    (files / "code").mkdir()
    (files / "code" / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    project.sign(version)
    with pytest.raises(PromotionRefused, match="a folder that Moola does not make"):
        ask(ledger, version)
    assert events(ledger) == ["refusal"]
    assert not (tmp_path / "ran").exists()


def test_a_champion_that_cannot_be_held_against_spends_no_look(
    project: Project, ledger: Ledger, tmp_path: Path
) -> None:
    project.sign("1")
    other = make_version(project.client, tmp_path)
    project.hold_production(other)
    with pytest.raises(PromotionRefused, match=rf"version {other} cannot be scored .*another"):
        ask(ledger)
    digest = {"model_sha256": "0" * 64}
    ledger.signing(project.key).append(
        Draft(event="promotion", who="a", name=NAME, reason="r", version_to=other, payload=digest)
    )
    with pytest.raises(PromotionRefused, match=f"version {other} cannot be scored"):
        ask(ledger)
    assert "test_look" not in events(ledger)


def test_the_same_windows_under_another_split_are_looked_at_again(
    project: Project, ledger: Ledger
) -> None:
    project.registry.build_split("again", replace(SPLIT, embargo_bars=1))
    for split, looks in (("fwd", 1), ("again", 2)):
        project.hold_production(None)
        project.sign("1", split=split)
        decision = outcome(ledger)
        assert decision.test_looks == looks
        assert decision.promotion_gate["figures"]["num_looks"] == looks
    first, second = (e.payload for e in ledger.entries(NAME, events=("test_look",)))
    assert first["split_sha256"] != second["split_sha256"]
    assert first["source"] == second["source"] == "walk"


def registry_of(root: Path, bars: Bars) -> DataStore:
    """A registry with the project's set and split, built from other bars under another name."""
    write_bars(root, replace(bars, name="renamed"))
    registry = DataStore(root)
    registry.build_set(LABELED, replace(RECIPE, source="renamed"))
    registry.build_split("fwd", SPLIT)
    return registry


def test_bars_are_looked_at_again_under_any_name_and_fresh_ones_can_be_asked_for(
    project: Project, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.sign("1")
    assert outcome(ledger).test_looks == 1
    bars = project.registry.load_bars("walk")
    more = walk(60, seed=5, price=float(bars.ohlc[-1, 3]), swing=2.0)
    longer = bars_of(np.concatenate([bars.ohlc, more]) * 3.0)

    def again(root: str, bars: Bars, *, fresh: bool) -> Decision:
        monkeypatch.setattr(project, "registry", registry_of(tmp_path / root, bars))
        version = project.train(replace(CONFIG, epochs=1), data_root=tmp_path / root)
        project.hold_production(None)
        project.sign(version)
        return outcome(ledger, version, data_root=tmp_path / root, fresh_windows_only=fresh)

    def looks() -> list[dict[str, Any]]:
        return [dict(entry.payload) for entry in ledger.entries(NAME, events=("test_look",))]

    assert again("longer", longer, fresh=False).test_looks == 2
    assert looks()[-1]["source"] == "renamed"
    newer = np.concatenate([longer.ohlc, walk(200, seed=6, price=longer.ohlc[-1, 3], swing=2.0)])
    fresh = again("newer", bars_of(newer), fresh=True)
    assert fresh.test_looks == fresh.promotion_gate["figures"]["num_looks"] == 1
    assert looks()[-2]["last_bar"] < looks()[-1]["first_bar"]

    refused = outcome(ledger, fresh.version, data_root=tmp_path / "newer", fresh_windows_only=True)
    assert any("were not looked at before" in reason for reason in refused.reasons)
    assert len(looks()) == 3


def test_the_gate_report_is_the_signed_one_or_no_look_is_taken(
    project: Project, ledger: Ledger, tmp_path: Path
) -> None:
    project.sign("1")
    tags = project.client.get_model_version(NAME, "1").tags
    run_id = tags[TAG_GATES_RUN]
    project.client.set_model_version_tag(NAME, "1", TAG_GATES_RUN, "elsewhere")  # not believed
    assert ask(ledger, dry_run=True).decision.allowed
    report = project.client.get_run(run_id).info.artifact_uri + "/" + ARTIFACT_GATE_REPORT
    kept = Path(report.removeprefix("file://"))
    for changed in ('{"gates": []}', "no JSON"):
        kept.write_text(changed)
        with pytest.raises(PromotionRefused, match="was changed after it was signed"):
            ask(ledger, decisions=tmp_path / "decisions")
    kept.unlink()
    with pytest.raises(MoolaError, match=f"the gate report of run {run_id}"):
        ask(ledger, decisions=tmp_path / "decisions")
    assert "test_look" not in events(ledger)
    assert not (tmp_path / "decisions").exists()


def test_what_a_candidate_is_stands_in_the_files_its_digest_covers(project: Project) -> None:
    run_id = project.client.get_model_version(NAME, "1").run_id
    told = CONFIG.to_dict() | {"seed": 99, "use_temporal_aug": True}
    project.client.log_dict(run_id, {"config": told}, ARTIFACT_MANIFEST)
    assert find_candidate(project.client, NAME, "1").config == CONFIG


def test_a_version_that_does_not_state_how_it_was_trained_is_refused(
    project: Project, tmp_path: Path
) -> None:
    old = project.like_the_first(tmp_path, trained_as=None)
    with pytest.raises(PromotionRefused, match="trained_as is None"):
        find_candidate(project.client, NAME, old)


def test_evidence_that_contradicts_the_files_spends_no_look(
    project: Project, ledger: Ledger, tmp_path: Path
) -> None:
    augmented = CONFIG.to_dict() | {"use_temporal_aug": True}
    stated = json.loads((checkpoint_of(project.files("1")) / "config.json").read_text())["params"]
    params = stated | {"use_temporal_aug": True}
    version = project.like_the_first(tmp_path, trained_as=augmented, params=params)
    project.sign(version)
    with pytest.raises(PromotionRefused, match=f"augmentation of version {version} is True by its"):
        ask(ledger, version)
    assert events(ledger) == ["refusal"]
