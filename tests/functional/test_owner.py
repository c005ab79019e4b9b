"""The database's owner against whoever holds a checkpoint: cuts, forks and rewrites are found."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from owner_kit import KINDS, read_rows, write_rows
from promotion_kit import KEY, NAME, Bench

from moola.cli.app import _run
from moola.errors import ConfigError, PromotionRefused
from moola.promotion.decision import PromotionDenied
from moola.promotion.ledger.checkpoint import CheckpointFile
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.ledger.remote import checkpoint_of, open_ledger


@pytest.fixture(scope="module")
def original(template_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A plain store whose ledger has some forty signed lines; its owner may do as he likes."""
    bench = Bench(template_db, tmp_path_factory.mktemp("owned"))
    for version in ("1", "2", "3"):
        bench.promote(version)
    bench.rollback()
    ledger = bench.ledger.signing(KEY)
    for number in range(30):
        ledger.append(Draft(event="refusal", who="ann", name=NAME, reason=f"because {number}"))
    return bench


def noticed(bench: Bench, kept: CheckpointFile) -> bool:
    """Return whether the next contact of a client with that checkpoint notices something."""
    ledger = LocalLedger(bench.ledger_url, checkpoint=kept)
    try:
        ledger.verify_chain()
    except PromotionRefused:
        return True
    found = bench.production().verify()
    return bool(found.findings) or found.champion != "2"


def attacks(bench: Bench, folder: Path, number: int) -> tuple[Counter[str], Counter[str]]:
    """Make random attacks; return by kind how many there were and how many went unnoticed."""
    database, rng = bench.folder / "mlflow.db", random.Random(number)
    rows = read_rows(database)
    tried: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    try:
        for attempt in range(number):
            kind = list(KINDS)[attempt % len(KINDS)]
            damaged = KINDS[kind]([dict(row) for row in rows], rng)
            if damaged == rows:
                continue
            kept = CheckpointFile(folder / f"{attempt}.json", "x")
            LocalLedger(bench.ledger_url, checkpoint=kept).verify_chain()
            write_rows(database, damaged)
            tried[kind] += 1
            missed[kind] += not noticed(bench, kept)
            write_rows(database, rows)
    finally:
        write_rows(database, rows)
    assert noticed(bench, CheckpointFile(folder / "none.json", "x")) is False
    return tried, missed


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_owner_is_noticed(original: Bench, tmp_path: Path, number: int) -> None:
    tried, missed = attacks(original, tmp_path, number)
    print(f"{tried.total()} attacks, unnoticed: {dict(+missed)}")
    assert not +missed
    assert tried.total() > 0.9 * number


def test_every_command_refuses_a_ledger_that_was_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.ledger_url)
    for version in ("1", "2"):
        bench.promote(version)
    elsewhere = str(bench.folder / "auditor.json")
    assert _run(["history", "--name", NAME, "--checkpoint", elsewhere]) == 0
    assert json.loads(Path(elsewhere).read_text())["size"] == 4
    rows = read_rows(bench.folder / "mlflow.db")
    write_rows(bench.folder / "mlflow.db", rows[:2])
    capsys.readouterr()
    for command in (["history"], ["rollback", "--reason", "r", "--dry-run"], ["verify"]):
        assert _run([*command, "--name", NAME]) == 1
        said = capsys.readouterr()
        assert "ledger entry 4 (SHA-256" in said.out + said.err
        assert "cut off: the ledger ends at 2" in said.out + said.err
    kept = open_ledger(bench.ledger_url, project=bench.folder)
    with pytest.raises(PromotionRefused, match="cut off"):
        bench.promote("3", ledger=kept)
    (bench.folder / ".moola" / "checkpoints").rename(bench.folder / "gone")
    assert _run(["history", "--name", NAME]) == 0
    assert _run(["history", "--name", NAME, "--checkpoint", elsewhere]) == 1
    Path(elsewhere).write_text("[]")
    assert _run(["history", "--name", NAME, "--checkpoint", elsewhere]) == 2


def test_the_checkpoint_goes_on_only_from_what_it_knows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    kept = checkpoint_of(url, tmp_path)
    ledger = LocalLedger(url, checkpoint=kept)
    draft = Draft(event="refusal", who="ann", name=NAME, reason="r")
    entries = [ledger.append(draft) for _ in range(3)]
    found = kept.read()
    assert found is not None
    assert (found.size, found.head) == (3, entries[-1].entry_hash)
    write_rows(tmp_path / "ledger.db", read_rows(tmp_path / "ledger.db")[:1])
    for _ in range(5):  # past the checkpoint's size: it stays
        ledger.append(draft)
    assert kept.read() == found
    with pytest.raises(
        PromotionRefused, match=r"entry 3 .* is another now: rewritten after entry 1"
    ):
        LocalLedger(url, checkpoint=kept).verify_chain()
    kept.path.write_text("{}")
    with pytest.raises(ConfigError, match="is no checkpoint of a ledger"):
        kept.read()


def test_a_running_reader_notices_what_is_rewritten_under_it(bench: Bench, tmp_path: Path) -> None:
    bench.promote("1")
    ledger = LocalLedger(bench.ledger_url, checkpoint=CheckpointFile(tmp_path / "c.json", "x"))
    ledger.check_chain()
    bench.promote("2")
    ledger.check_chain()
    rows = read_rows(bench.folder / "mlflow.db")
    for kind in ("tail cut off", "fork", "begun anew", "tail cut off and gone on"):
        write_rows(bench.folder / "mlflow.db", KINDS[kind](rows, random.Random(1)))
        with pytest.raises(PromotionRefused, match="ledger entry"):
            ledger.check_chain()
    write_rows(bench.folder / "mlflow.db", rows)
    ledger.check_chain()


def test_an_unsigned_rollback_moves_nothing(bench: Bench) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    forged = {"event": "rollback", "who": "eve", "name": NAME, "reason": "drift"}
    line = bench.ledger.append(Draft(**forged, version_from="2", version_to="1"))
    bench.client.set_registered_model_alias(NAME, "production", "1")
    bench.client.transition_model_version_stage(NAME, "2", "Archived")
    bench.client.transition_model_version_stage(NAME, "1", "Production")
    unsigned, disagrees = bench.production().verify().findings
    assert (
        unsigned
        == f"ledger entry {line.seq} (rollback of version 1) does not count: it is not signed"
    )
    assert disagrees.startswith("the ledger has version 2 in Production, the alias names 1")
    found = bench.production().history()
    assert (found.champion, len(found.notes)) == ("2", 1)
    with pytest.raises(PromotionDenied, match="already holds Production"):
        bench.rollback(to="1")
    assert bench.rollback(to="2").version == "2"
    assert bench.champion_by_keys() == "2"
