"""`moola verify` names everything that is not there or not as it should be, one finding a line."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from promotion_kit import KEY, NAME, Bench, evaluate, make_logged_version

from moola.cli.app import _run
from moola.config.promotion import TRUSTED_FOLDER
from moola.promotion.evidence.keys import trust
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger


def findings(bench: Bench) -> list[str]:
    return list(bench.production().verify().findings)


def folder_of(bench: Bench, version: str) -> Path:
    address = bench.client.get_model_version_download_uri(NAME, version)
    return Path(address.removeprefix("file://"))


def run_of(bench: Bench, version: str) -> str:
    return str(bench.client.get_model_version(NAME, version).run_id)


def link(bench: Bench) -> None:
    (folder_of(bench, "1") / "link").symlink_to("/etc/passwd")


def linked_folder(bench: Bench) -> None:
    (folder_of(bench, "1") / "more").symlink_to("/etc")


def pipe(bench: Bench) -> None:
    os.mkfifo(folder_of(bench, "1") / "pipe")


def pipe_in_place(bench: Bench) -> None:
    path = folder_of(bench, "1") / "weights.safetensors"
    path.unlink()
    os.mkfifo(path)


def no_files(bench: Bench) -> None:
    shutil.rmtree(folder_of(bench, "1"))


def no_run(bench: Bench) -> None:
    bench.client.delete_run(run_of(bench, "1"))


def no_experiment(bench: Bench) -> None:
    experiment = bench.client.get_experiment_by_name("work")
    assert experiment is not None
    bench.client.delete_experiment(experiment.experiment_id)


def no_row_of_the_run(bench: Bench) -> None:
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        database.execute("DELETE FROM runs WHERE run_uuid = ?", (run_of(bench, "1"),))


def no_version(bench: Bench) -> None:
    bench.client.delete_model_version(NAME, "1")


GONE: dict[Callable[[Bench], None], tuple[str, ...]] = {
    link: ("version 1: file 'link' is a symbolic link",),
    linked_folder: ("version 1: file 'more' is a symbolic link",),
    pipe: ("version 1: file 'pipe' is neither file nor folder",),
    pipe_in_place: ("version 1: file 'weights.safetensors' is neither file nor folder",),
    no_files: ("version 1: file folder 'model' is not there",),
    no_run: ("version 1: run ",),
    no_experiment: ("version 1: experiment ", "version 2: run "),
    no_row_of_the_run: ("version 1: run ",),
    no_version: ("version 1: it cannot be read: ",),
}


@pytest.mark.parametrize("takes", GONE, ids=lambda takes: takes.__name__)
def test_what_is_gone_or_odd_is_one_finding_among_all(
    bench: Bench, takes: Callable[[Bench], None]
) -> None:
    for version in ("1", "2"):
        bench.promote(version)
    assert findings(bench) == []
    (folder_of(bench, "2") / "weights.safetensors").write_text("else")
    takes(bench)
    found = findings(bench)
    for said in GONE[takes]:
        assert any(finding.startswith(said) for finding in found), found
    changed = "version 2: version 2 is not proven: the model's files were changed"
    assert any(finding.startswith(changed) for finding in found), found


def test_a_logged_model_that_was_deleted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", bench.ledger_url)
    version = make_logged_version(bench.client, bench.folder)
    evaluate(bench.client, KEY, version)
    bench.promote(version)
    assert findings(bench) == []
    source = bench.client.get_model_version(NAME, version).source
    bench.client.delete_logged_model(source.removeprefix("models:/"))
    [gone] = findings(bench)
    assert gone.startswith(f"version {version}: logged model m-")


TRIGGERS = {
    "dropped": ("DROP TRIGGER moola_ledger_no_delete", ["moola_ledger_no_delete of the ledger is"]),
    "made to do nothing": (
        "DROP TRIGGER moola_ledger_no_update;"
        "CREATE TRIGGER moola_ledger_no_update BEFORE UPDATE ON moola_ledger BEGIN SELECT 1; END",
        ["moola_ledger_no_update of the ledger was changed"],
    ),
    "made for another case": (
        "DROP TRIGGER moola_ledger_no_update; CREATE TRIGGER moola_ledger_no_update BEFORE UPDATE "
        "ON moola_ledger WHEN 0 BEGIN SELECT RAISE(ABORT, 'moola_ledger is append-only'); END",
        ["moola_ledger_no_update of the ledger was changed"],
    ),
    "one more": (
        "CREATE TRIGGER mine AFTER INSERT ON moola_ledger BEGIN SELECT 1; END",
        ["has a trigger 'mine' that is not Moola's"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", TRIGGERS)
def test_triggers_are_looked_at_and_a_server_makes_them_again(bench: Bench, change: str) -> None:
    bench.promote("1")
    script, said = TRIGGERS[change]
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        database.executescript(script)
    found = findings(bench)
    assert len(found) == len(said)
    assert all(words in finding for words, finding in zip(said, found, strict=True))
    foreign = change == "one more"  # left to whoever made it
    before = len(bench.ledger.entries())
    assert bench.ledger.signing(KEY).repair() == ([] if foreign else found)
    assert findings(bench) == (found if foreign else [])
    written = bench.ledger.entries()[before:]
    assert [(line.event, line.who) for line in written] == [("repair", "server")] * (not foreign)
    assert all(said[0] in line.reason for line in written)


PG_CHANGES = {
    "dropped": "DROP TRIGGER moola_ledger_no_change ON moola_ledger",
    "switched off": "ALTER TABLE moola_ledger DISABLE TRIGGER moola_ledger_no_change",
    "function emptied": (
        "CREATE OR REPLACE FUNCTION moola_ledger_refuse() RETURNS trigger AS $$ "
        "BEGIN RETURN NULL; END $$ LANGUAGE plpgsql"
    ),
    "for deletes only": (
        "DROP TRIGGER moola_ledger_no_change ON moola_ledger; "
        "CREATE TRIGGER moola_ledger_no_change BEFORE DELETE ON moola_ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION moola_ledger_refuse()"
    ),
    "a rule": "CREATE RULE mine AS ON UPDATE TO moola_ledger DO INSTEAD NOTHING",
}


def test_the_same_on_postgresql(postgres: str) -> None:
    ledger = LocalLedger(postgres).signing(KEY)
    draft = Draft(event="refusal", who="ann", name=NAME, reason="é\u2028" * 3)
    ledger.append(draft)
    assert ledger.schema_findings() == []
    engine = sa.create_engine(postgres)
    for change, script in PG_CHANGES.items():
        with engine.begin() as connection:
            connection.exec_driver_sql(script)
        assert len(ledger.schema_findings()) == 1, change
        assert len(ledger.repair()) == (change != "a rule")
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP RULE IF EXISTS mine ON moola_ledger")
        assert ledger.schema_findings() == [], change
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE moola_ledger DROP COLUMN signature")
    old = LocalLedger(postgres).signing(KEY)
    old.append(draft)
    assert [e.event for e in old.entries()][-2:] == ["boundary", "refusal"]
    old.verify_chain()
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM moola_ledger")
    engine.dispose()


def test_every_finding_is_a_line_and_the_exit_code_is_1(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("1", "2"):
        evaluate(bench.client, KEY, version)
        bench.promote(version)
    trust(bench.folder / TRUSTED_FOLDER, KEY.public_key())
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.ledger_url)
    assert _run(["verify", "--name", NAME]) == 0
    pipe(bench)
    no_run(bench)
    with sqlite3.connect(bench.folder / "mlflow.db") as database:
        database.execute("DROP TRIGGER moola_ledger_no_update")
    capsys.readouterr()
    assert _run(["verify", "--name", NAME]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  - ")]
    assert len(lines) == 3
