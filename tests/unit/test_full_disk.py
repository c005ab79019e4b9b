"""A full disk is one line with the remedy, whatever library hides it; it is no bug of Moola's."""

from __future__ import annotations

import errno
import importlib
import sqlite3
from collections.abc import Callable

import pytest
import sqlalchemy
import typer
from safetensors import SafetensorError

from moola.errors import DataError, TrackingError

APP = importlib.import_module("moola.cli.app")  # `moola.cli.app` names the typer object


def _no_room(connection: sqlite3.Connection) -> None:
    connection.execute("pragma max_page_count = 2")
    connection.execute("create table t (a)")
    connection.execute("insert into t values (zeroblob(100000))")


def by_sqlite() -> None:
    _no_room(sqlite3.connect(":memory:"))


def by_sqlalchemy() -> None:
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("pragma max_page_count = 2")
        connection.exec_driver_sql("create table t (a)")
        connection.exec_driver_sql("insert into t values (zeroblob(100000))")


def by_the_system() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/runs/x")


def by_quota() -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


def by_torch() -> None:  # as torch.save raises it on a full tmpfs
    try:
        raise RuntimeError("basic_ios::clear: iostream error")
    except RuntimeError:
        message = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"
        raise RuntimeError(message) from None  # hidden, but still its context


def by_safetensors() -> None:  # as safetensors raises it there
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    raise SafetensorError(message)


def by_numpy() -> None:  # as np.save raises it there
    raise OSError("1000000 requested and 131056 written")


def behind_an_error_of_moola() -> None:
    try:
        by_sqlite()
    except sqlite3.Error as error:
        raise TrackingError("the store does not answer", remedy="Start it.") from error


@pytest.mark.parametrize(
    "fill",
    [by_sqlite, by_sqlalchemy, by_the_system, by_quota, by_torch, by_safetensors, by_numpy,
     behind_an_error_of_moola],
)  # fmt: skip
def test_a_full_disk_is_one_line(
    fill: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(APP, "app", lambda *_, **__: fill())
    assert APP._run(["history"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moola: the disk is full: ")
    assert line.endswith("free some space, then run the command again.")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied", "/data/x"),
        DataError("set labeled_windows/iostream error does not exist"),
        DataError("no column is named '3 requested and 2 written'"),
        typer.BadParameter("'no space left on device' is no model"),
    ],
    ids=["another errno", "a set's name", "a column's name", "an option's value"],
)
def test_other_errors_are_not_taken_for_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(APP, "app", broken)
    assert APP._run(["history"]) == 2
    assert "the disk is full" not in capsys.readouterr().err
