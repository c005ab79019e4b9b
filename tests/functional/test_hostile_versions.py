"""A version is data, and a stranger's: hostile ones before the border and before every command."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from data_kit import SET, small_registry
from hostile_versions import ANSWERS, BORDER, Hostile, put, read
from mlflow import MlflowClient
from promotion_kit import NAME, evaluate, trusting

from moola.cli.app import _run
from moola.config.data import SplitRecipe
from moola.config.evaluation import Thresholds
from moola.config.packaging import MODEL_CODE, MODEL_CODE_RELEASES
from moola.config.promotion import PromotionPolicy
from moola.config.serving import ServeConfig
from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.errors import MoolaError, PromotionRefused, Refused
from moola.hashing import sha256_file
from moola.promotion.evidence.attestation import Evidence, verify
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.versions.packaging import check_packaging, packaging_findings
from moola.promotion.versions.packaging_files import regular_files
from moola.promotion.versions.referee import referee
from moola.steps.finetune import finetune
from moola.steps.registry import rollback
from moola.steps.registry import verify as verify_registry
from moola.steps.serve import make_source

CANARY = "name-that-must-not-get-out"
MOST_SECONDS = 10  # of this process's own time; all but a few take hundredths
CONFIG = FinetuneConfig(
    preset="compact", labeled=SET, split="splits/fwd.json", epochs=2, patience=0, device="cpu"
)


class World:
    """A project with one honest version, and hostile ones made of copies of its files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.registry: DataStore = small_registry(folder / "data", num_bars=1200, swing=2.0)
        recipe = SplitRecipe(labeled=SET, strategy="walk_forward", num_folds=2)
        self.registry.build_split("walk", recipe)
        finetune(CONFIG)
        self.client = MlflowClient()
        self.client.create_experiment("work", artifact_location=(folder / "work").as_uri())
        address = self.client.get_model_version_download_uri(NAME, "1")
        self.honest = Path(address.removeprefix("file://"))
        self.run_id = str(self.client.get_model_version(NAME, "1").run_id)
        ensure_signing_key(folder)
        self.key: Ed25519PrivateKey = load_signing_key(folder, env={})
        self.ledger = LocalLedger(f"sqlite:///{folder}/mlflow.db")

    def make(self, name: str, hostile: Hostile) -> tuple[Path, Path]:
        """Return the folder of a hostile version and that of its canaries."""
        folder = self.folder / "hostile" / str(abs(hash(name)))
        shutil.rmtree(folder, ignore_errors=True)
        canary = folder / "canary"
        canary.mkdir(parents=True)
        (canary / CANARY).touch()
        shutil.copytree(self.honest, folder / "files")
        hostile(folder / "files", canary)
        return folder / "files", canary

    def register(self, files: Path) -> str:
        version = self.client.create_model_version(NAME, files.as_uri(), self.run_id)
        return str(version.version)

    def sign(self, version: str, **data: object) -> Evidence:
        """Sign passed gates for a version, as a gate runner would that believes it."""
        windows, parts = self.registry.load_set(SET), self.registry.load_split("fwd")
        stated = {
            "labeled": windows.name,
            "labeled_sha256": windows.sha256,
            "split": parts.name,
            "split_sha256": parts.digest(),
            "num_windows": 100,
            **data,
        }
        document = {"data": stated, "thresholds_sha256": Thresholds.load().digest()}
        judged = "enhanced_simple_lstm"  # a model of Moola's: its files are read again
        signed = evaluate(self.client, self.key, version, document=document, model=judged)
        return verify(signed, trusting(self.key))

    def public_words(self, version: str) -> str:
        """Return all that anybody can read about a version: tags, runs, the ledger."""
        tags = self.client.get_model_version(NAME, version).tags
        ids = [e.experiment_id for e in self.client.search_experiments()]
        runs = [(r.data.tags, r.data.params) for r in self.client.search_runs(ids)]
        entries = [(e.reason, dict(e.payload)) for e in self.ledger.entries(NAME)]
        return json.dumps([tags, runs, entries])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(template_db, folder / "mlflow.db")
    before = Path.cwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        yield World(folder)
    finally:
        os.chdir(before)


def require_untouched(canary: Path, *told: str) -> None:
    """Check that no code of a version ran and no name of the canary's folder got out."""
    assert not (canary / "ran").exists()
    assert all(CANARY not in words for words in told)
    assert all(words.isprintable() for words in told)


def test_the_model_code_of_this_moola_is_in_the_table(repository: Path) -> None:
    code = repository / "src" / "moola" / "serving" / MODEL_CODE
    assert sha256_file(code) in MODEL_CODE_RELEASES, "add a row for it, and keep the others"


def test_an_honest_version_passes(world: World) -> None:
    files, _ = world.make("honest", lambda folder, canary: None)
    stored = check_packaging(files).stored
    assert stored.config == CONFIG
    assert stored.class_names == ("consolidation", "expansion")


@pytest.mark.parametrize("name", BORDER)
def test_the_border_refuses(world: World, name: str) -> None:
    """In one sentence, without running, following or waiting, in little time."""
    files, canary = world.make(name, BORDER[name])
    before = time.process_time()
    with pytest.raises(PromotionRefused) as refusal:
        check_packaging(files)
    assert time.process_time() - before < MOST_SECONDS
    require_untouched(canary, str(refusal.value))
    assert len(str(refusal.value)) < 1000
    shutil.rmtree(files)


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_packaging_cannot_show_passes_the_border(world: World, name: str) -> None:
    """So that the tests below are about what is behind it."""
    check_packaging(world.make(name, ANSWERS[name])[0])


def asked_to_evaluate(world: World, version: str, files: Path) -> int:
    return _run(["evaluate", "--version", version, "--device", "cpu", "--gate", "0"])


def asked_to_promote(world: World, version: str, files: Path) -> int:
    return _run(["promote", "--version", version])


def asked_to_predict(world: World, version: str, files: Path) -> int:
    windows = world.folder / "windows.npy"
    np.save(windows, np.asarray(world.registry.load_set(SET).X_ohlc[:3]))
    return _run(["predict", str(windows), "--model", f"models:/{NAME}/{version}"])


def asked_to_serve(world: World, version: str, files: Path) -> int:
    try:
        make_source(ServeConfig(version=version, project=str(world.folder))).load(version)
    except MoolaError as error:
        print(error)
        return error.exit_code
    return 0


def asked_to_referee(world: World, version: str, files: Path) -> int:
    policy = PromotionPolicy(referee_data=str(world.folder / "data"))
    try:
        referee(files, world.sign("1"), policy)
    except Refused as error:
        if "disagrees with the evidence" not in str(error):
            print(error)
            return error.exit_code
    return 0


Command = Callable[[World, str, Path], int]
COMMANDS: dict[str, Command] = {
    "evaluate": asked_to_evaluate,
    "promote": asked_to_promote,
    "predict": asked_to_predict,
    "serve": asked_to_serve,
    "referee": asked_to_referee,
}
# What only the labelled set or its validation windows show: not asked where no set is at hand.
NEEDS_THE_SET = {name for name in ANSWERS if "NaN" not in name and "infinity" not in name}
IN_A_MINUTE = (
    ("evaluate", "an absolute encoder"),
    ("evaluate", "classes swapped"),
    ("evaluate", "30,000 empty files"),
    ("promote", "foreign model code"),
    ("promote", "weights a pipe"),
    ("predict", "weights that give NaN"),
    ("predict", "a link to everything"),
    ("serve", "20,000 layers"),
    ("serve", "MLmodel a pipe"),
    ("referee", "classes swapped"),
)
# The referee compares figures of the locked windows, and these do not change one; a set that is not
# here is no verdict.
CANNOT_TELL = {
    ("referee", name)
    for name in (
        "sets that cover less",
        "calibrated on other windows",
        "an encoder that is nowhere",
        "a set that is nowhere",
    )
} | {("evaluate", "a set that is nowhere")}
ALL = [
    (command, name)
    for command in COMMANDS
    for name in (*BORDER, *ANSWERS)
    if (command in ("evaluate", "promote", "referee") or name not in NEEDS_THE_SET)
    and (command, name) not in {*IN_A_MINUTE, *CANNOT_TELL}
]


def require_refusal(
    world: World, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files, canary = world.make(name, {**BORDER, **ANSWERS}[name])
    version = world.register(files)
    if command == "promote" and name in ANSWERS:
        world.sign(version)
    capsys.readouterr()
    code = COMMANDS[command](world, version, files)
    told = capsys.readouterr()
    line = (told.err + told.out).strip().splitlines()[-1]
    assert code == 1, line
    require_untouched(canary, line)
    assert CANARY not in world.public_words(version)
    entries = [e for e in world.ledger.entries(NAME) if e.version_to == version]
    if command in ("evaluate", "promote"):
        assert [e.event for e in entries] == ["refusal"]
    shutil.rmtree(files)


@pytest.mark.parametrize(("command", "name"), IN_A_MINUTE)
def test_every_command_refuses(
    world: World, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_refusal(world, command, name, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), ALL)
def test_every_command_refuses_every_version(
    world: World, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_refusal(world, command, name, capsys)


def test_a_set_that_is_not_here_is_no_verdict_and_no_run_tells_what_is(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    files, _ = world.make("nowhere", put("trained_as.labeled", "labeled_windows/nowhere"))
    version = world.register(files)
    assert asked_to_evaluate(world, version, files) == 2
    assert "labeled_windows/nowhere does not exist" in capsys.readouterr().err
    runs = MlflowClient().search_runs(
        [e.experiment_id for e in world.client.search_experiments()],
        f"params.candidate = '{NAME}/{version}'",
    )
    assert list(runs) == []


def test_swapped_classes_of_a_version_promoted_before_are_found(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its evidence was signed when class names were not; the set it names still knows them."""
    files, _ = world.make("promoted", ANSWERS["classes swapped"])
    version = world.register(files)
    assert read(files)["class_names"] == ["expansion", "consolidation"]
    evidence = world.sign(version)
    findings = packaging_findings(files, evidence, data_root=world.folder / "data")
    assert findings
    assert "classes are expansion, consolidation" in findings[0]
    assert packaging_findings(files, evidence, data_root=None)  # no rule has them in this order
    signed = world.sign(version, class_names=["consolidation", "expansion"])
    assert "as its signed evidence has them" in packaging_findings(files, signed, data_root=None)[0]
    assert packaging_findings(world.honest, signed, data_root=None) == []

    tag = world.client.get_model_version(NAME, version).tags["moola.evidence"]
    world.ledger.signing(world.key).append(
        Draft(
            event="promotion", who="ann", name=NAME, reason="r", version_to=version,
            evidence_digest=signed.digest,
            payload={"evidence": tag, "model_sha256": signed.model_sha256},
        )
    )  # fmt: skip
    world.client.transition_model_version_stage(NAME, version, "Production")
    world.client.set_registered_model_alias(NAME, "production", version)
    audit = verify_registry(NAME, project=world.folder)
    assert any("classes are expansion, consolidation" in found for found in audit.findings)
    with pytest.raises(PromotionRefused, match="classes are expansion, consolidation"):
        make_source(ServeConfig(project=str(world.folder))).load(version)
    with pytest.raises(PromotionRefused, match="classes are expansion, consolidation"):
        rollback(name=NAME, to=version, reason="r", project=world.folder, dry_run=True)


def test_a_listing_stops_early(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).touch()
    with pytest.raises(PromotionRefused, match="too many files"):
        regular_files(tmp_path)
