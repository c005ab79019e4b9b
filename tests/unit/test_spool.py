"""The spool on the disk: append only, one holder, whole after any end of its process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from moola.errors import TrackingError
from moola.tracking.delivery import StoreAway, StoreRefuses, _judged, next_load
from moola.tracking.spool import Spool, SpoolEntry, left_spools
from moola.tracking.sync import sync

STORE = "http://127.0.0.1:1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_what_is_appended_is_read_back_in_order(root: Path) -> None:
    spool = Spool.create(STORE, root=root)
    first = spool.append("r", "open", {"name": "x"})
    spool.append("r", "files", {}, {"a/b.bin": b"12"})
    spool.append("r", "batch", {"tags": {"k": "v"}})
    spool.confirm(first, {"run_id": "id", "experiment_id": "0"})
    spool.waiting = [first]  # what is not sent keeps the folder
    spool.close()
    again = Spool.take(spool.folder)
    assert [(e.number, e.kind) for e in again.waiting] == [(1, "files"), (2, "batch")]
    assert (again.files(again.waiting[0]) / "a" / "b.bin").read_bytes() == b"12"
    assert again.ids == {"r": {"run_id": "id", "experiment_id": "0"}}
    assert again.store == STORE
    assert again.append("r", "end", {}).number == 3


def test_a_spool_has_one_holder(root: Path) -> None:
    spool = Spool.create(STORE, root=root)
    spool.waiting.append(spool.append("r", "open", {}))
    assert Spool.take(spool.folder) is None
    spool.close()
    taken = Spool.take(spool.folder)
    assert taken is not None
    taken.close()


def test_a_line_cut_short_was_never_logged(root: Path) -> None:
    spool = Spool.create(STORE, root=root)
    spool.waiting.append(spool.append("r", "open", {}))
    spool.close()
    journal = spool.folder / "journal.jsonl"
    whole = journal.read_text()
    journal.write_text(whole + '{"n": 1, "run": "r", "ki')
    again = Spool.take(spool.folder)
    assert [e.number for e in again.waiting] == [0]
    again.append("r", "batch", {})
    lines = journal.read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [0, 1]
    again.close()


@pytest.mark.parametrize("damage", ['{"n": 1, "ru{"n": 2}\n', '{"n": 1}\n', "[]\n"])
def test_a_damaged_spool_is_set_aside_and_holds_nothing_up(
    root: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool.create(STORE, root=root)
    spool.waiting.append(spool.append("r", "open", {}))
    spool.close()
    (spool.folder / "journal.jsonl").write_text(damage)
    [report] = sync(root)
    kept = root / "refused" / spool.folder.name
    assert report.trouble == f"it cannot be read and is kept in {kept}"
    assert kept.is_dir()
    assert f"spool {spool.folder} cannot be read" in caplog.text
    assert left_spools(root) == []


def test_a_process_that_was_killed_leaves_its_run_to_be_ended(root: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from moola.tracking.spool import Spool\n"
        f"spool = Spool.create({STORE!r}, root=Path({str(root)!r}))\n"
        "spool.append('r', 'open', {}); spool.append('c', 'open', {'parent': 'r'})\n"
        "spool.append('c', 'end', {'status': 'FINISHED'})\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    spool = Spool.take(left_spools(root)[0])
    spool.add_missing_ends()
    added = [(e.run, e.kind) for e in spool.waiting[3:]]
    assert added == [("r", "batch"), ("r", "end")]
    assert spool.waiting[-1].body["status"] == "FAILED"
    spool.close()
    assert len(left_spools(root)) == 1


def test_a_sent_spool_goes_and_a_refused_one_is_kept(root: Path) -> None:
    for refuse in (False, True):
        spool = Spool.create(STORE, root=root)
        entry = spool.append("r", "batch", {}, {"a": b"1"})
        spool.refuse(entry, "too long") if refuse else spool.confirm(entry)
        spool.close()
        assert left_spools(root) == []
    (kept,) = (root / "refused").iterdir()
    assert (kept / "files" / "0" / "a").read_bytes() == b"1"


def test_a_closed_spool_takes_no_confirmation(root: Path) -> None:
    spool = Spool.create(STORE, root=root)
    entry = spool.append("r", "files", {}, {"a": b"1"})
    spool.waiting.append(entry)
    spool.close()
    assert not spool.trying("r")
    spool.confirm(entry)  # an answer that came too late
    assert (spool.files(entry) / "a").is_file()


def test_a_spool_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="Set MOOLA_SPOOL to a folder"):
        Spool.create(STORE, root=tmp_path / "file" / "spool")


def batch(number: int, run: str = "r", **body: object) -> SpoolEntry:
    return SpoolEntry(number=number, run=run, kind="batch", body=body)


def numbers(*entries: SpoolEntry) -> list[int]:
    return [e.number for e in next_load(entries)]


def test_batches_of_a_run_travel_together_within_the_limits() -> None:
    thousand = {"metrics": [{"key": "k"}] * 1000}
    assert numbers(batch(0, tags={"a": "1"}), batch(1, params={"b": "2"})) == [0, 1]
    assert numbers(batch(0, **thousand), batch(1, tags={"a": "1"})) == [0]
    assert numbers(batch(0), batch(1, run="other")) == [0]
    assert numbers(batch(0, params={"a": "1"}), batch(1, params={"a": "2"})) == [0]
    files, inputs = (SpoolEntry(number=1, run="r", kind=k, body={}) for k in ("files", "inputs"))
    assert numbers(batch(0), files, batch(2)) == [0, 2]
    assert numbers(batch(0), inputs, batch(2)) == [0]
    assert numbers(files, batch(2)) == [1]
    assert numbers(batch(0, tags={f"t{i}": "" for i in range(60)}),
                   batch(1, tags={f"u{i}": "" for i in range(60)})) == [0]  # fmt: skip


@pytest.mark.medium
@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ('(psycopg.errors.UniqueViolation) duplicate key violates "dataset_pk"', StoreAway),
        ("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name", StoreAway),
        ("Changing param values is not allowed.", StoreRefuses),
    ],
)
def test_a_lost_race_of_two_clients_is_tried_again(
    tmp_path: Path, message: str, outcome: type[Exception]
) -> None:
    """Two clients that log the same data set first: MLflow answers the slower one 400."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    error = RestException({"error_code": "BAD_REQUEST", "message": message})
    assert isinstance(_judged(client, error), outcome)


def test_what_was_sent_out_of_turn_no_longer_waits(root: Path) -> None:
    spool = Spool.create(STORE, root=root)
    spool.waiting = [spool.append("r", kind, {}) for kind in ("batch", "files", "batch")]
    load = next_load(spool.waiting)
    for entry in load:
        spool.confirm(entry)
    spool.drop(load)
    assert [entry.kind for entry in spool.waiting] == ["files"]
    spool.close()
    assert [entry.number for entry in Spool.take(spool.folder).waiting] == [1]
