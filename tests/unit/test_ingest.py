"""Ingest: bars that cannot be are refused, repairs recorded, a file's chunks come out as one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_kit import bars_of, walk
from ingest_kit import HEAD, csv_of, put, row

from moola.data.bars import read_bars
from moola.data.ingest import REPAIRS, IngestOptions, ingest
from moola.data.ingest import run as module
from moola.errors import ConfigError, DataError, MoolaError

pytestmark = pytest.mark.medium  # every ingest draws the quality report

REFUSED = {
    "high below close": (row(1, 1, 1, 1, 1) + row(2, 1, 1.1, 0.9, 1.2), "1 of 2 rows .* enclose"),
    "low above open": (row(1, 1, 2, 1.5, 2), "1 of 1 rows .* enclose open and close"),
    "empty price": (row(1, 1, 2, "", 2), "no time or a price that is not a positive number"),
    "NaN": (row(1, "NaN", 2, 1, 2), "price that is not a positive number"),
    "infinite": (row(1, 1, "inf", 1, 1), "price that is not a positive number"),
    "negative": (row(1, -1, 2, -1, 1), "price that is not a positive number"),
    "text price": (row(1, 1, 2, 1, "abc"), "cannot be read: .*abc"),
    "row too short": (row(1, 1, 1, 1, 1) + "2017-01-01T02:00:00Z,1\n", "cannot be read: .*column"),
    "time order": (
        row(1, 1, 1, 1, 1) + row(3, 1, 1, 1, 1) + row(2, 1, 1, 1, 1),
        "neither ascend nor descend, first at data row 2",
    ),
    "same time twice": (row(1, 1, 1, 1, 1) * 2, "2017-01-01T01:00.* more than once"),
    "unknown time": ("2017/13/45,1,1,1,1\n", "'2017/13/45' does not exist"),
    "ambiguous date": ("02/03/2017 00:00,1,1,1,1\n", "--time-format"),
    "two time forms": (row(1, 1, 1, 1, 1) + "yesterday,1,1,1,1\n", "'yesterday' .* not written as"),
    "no rows": ("", "holds no rows"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_breaks_ohlc_or_time_is_refused_and_nothing_is_written(tmp_path, case):
    text, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        ingest(put(tmp_path, HEAD + text), "x", tmp_path / "bars")
    assert list((tmp_path / "bars").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("2017-01-01T08:00:00Z,X,1,1,1,2\n", "1 of 17 rows .* first is data row 15"),
        ("2017-01-01T01:00:00Z,X,1,1,1,1\n", "neither ascend nor descend, first at data row 15"),
    ],
)
def test_rows_are_counted_as_in_the_file_whatever_instrument_is_read(tmp_path, wrong, message):
    """X stands in every second row: its 8th is the file's data row 15."""
    hours = [f"2017-01-01T{h:02}:00:00Z,{s},1,1,1,1\n" for h in range(8) for s in "XY"]
    text = "time,symbol,open,high,low,close\n" + "".join([*hours[:15], wrong, *hours[15:]])
    with pytest.raises(DataError, match=message):
        ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(symbol="X"))


def test_rows_left_out_by_a_repair_count_too(tmp_path):
    text = HEAD + row(1, "", 1, 1, 1) + row(2, 1, 1, 1, 1) + row(3, 1, 1, 1, 1) + row(1, 1, 1, 1, 1)
    options = IngestOptions(repairs=("drop-missing",))
    with pytest.raises(DataError, match="neither ascend nor descend, first at data row 3"):
        ingest(put(tmp_path, text), "x", tmp_path / "bars", options)


def test_repairs_do_what_they_say_and_are_recorded(tmp_path):
    text = HEAD + (
        row(3, 5, 6, 4, 5) + row(1, 1, 1.5, 1.1, 1.2) + row(2, 2, 2, 2, 2)
        + row(2, 2, 2, 2, 2) + row(4, "", 1, 1, 1)
    )  # fmt: skip
    options = IngestOptions(repairs=("sort", "drop-duplicates", "drop-missing", "widen"))
    done = ingest(put(tmp_path, text), "x", tmp_path / "bars", options)
    bars = read_bars(done.path)
    assert bars.ohlc.tolist() == [[1, 1.5, 1, 1.2], [2, 2, 2, 2], [5, 6, 4, 5]]
    stored = json.loads(done.report_path.read_text())
    assert stored["facts"]["repairs"] == {
        "drop-duplicates": 1, "drop-missing": 1, "sort": 4, "widen": 1,
    }  # fmt: skip
    assert stored["facts"]["rows_read"] == 5
    assert stored["num_bars"] == 3
    dropped = IngestOptions(repairs=("sort", "drop-duplicates", "drop-missing", "drop-violations"))
    assert len(read_bars(ingest(put(tmp_path, text), "y", tmp_path / "bars", dropped).path)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repairs": ("srt",)}, "repair is 'srt'; expected one of sort"),
        ({"repairs": ("widen", "drop-violations")}, "one of the two"),
        ({"jump_mad": 0.0}, "jump_mad is 0.0"),
        ({"jump_mad": float("nan")}, "jump_mad is nan"),
    ],
)
def test_options_check_themselves(options, message):
    with pytest.raises(ConfigError, match=message):
        IngestOptions(**options)


def test_a_bar_set_is_never_overwritten(tmp_path):
    first = put(tmp_path, HEAD + row(1, 1, 1, 1, 1))
    done = ingest(first, "x", tmp_path / "bars")
    before = done.path.read_bytes()
    ingest(first, "x", tmp_path / "bars")
    with pytest.raises(DataError, match="exists with another content"):
        ingest(put(tmp_path, HEAD + row(2, 1, 1, 1, 1)), "x", tmp_path / "bars")
    assert done.path.read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "bars").iterdir()) == [
        "x.parquet", "x.quality.html", "x.quality.json",
    ]  # fmt: skip
    for name in ("../x", ".x", "a/b", ""):
        with pytest.raises(MoolaError, match="bare name"):
            ingest(first, name, tmp_path / "bars")


def test_a_report_that_cannot_be_made_leaves_the_name_free(tmp_path, monkeypatch):
    def broken(report):
        raise ZeroDivisionError

    path = put(tmp_path, HEAD + row(1, 1, 1, 1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(module, "quality_page", broken)
        with pytest.raises(ZeroDivisionError):
            ingest(path, "x", tmp_path / "bars")
    assert list((tmp_path / "bars").iterdir()) == []


@pytest.mark.parametrize("order", ["oldest first", "newest first", "shuffled"])
def test_many_chunks_come_out_as_one_in_order(tmp_path, monkeypatch, order):
    """Chunks of a few rows: every boundary is crossed, the last row of one begins the next."""
    bars = bars_of(walk(700))
    text = csv_of(bars, newest_first=order == "newest first")
    if order == "shuffled":
        lines = text.splitlines()
        body = np.array(lines[1:])[np.random.default_rng(0).permutation(700)]
        text = "\n".join([lines[0], *body]) + "\n"
    monkeypatch.setattr("moola.data.ingest.csv_file._BLOCK_BYTES", 4096)
    monkeypatch.setattr("moola.data.ingest.spool._BUCKET_ROWS", 90)
    monkeypatch.setattr("moola.data.ingest.quality_scan._BATCH_ROWS", 37)
    options = IngestOptions(repairs=("sort",) if order == "shuffled" else ())
    done = ingest(put(tmp_path, text), "x", tmp_path / "bars", options)
    read = read_bars(done.path)
    assert np.array_equal(read.ohlc, bars.ohlc)
    assert np.array_equal(read.time, bars.time)


def test_a_duplicate_over_the_border_of_two_chunks_is_found(tmp_path, monkeypatch):
    bars = bars_of(walk(400))
    lines = csv_of(bars).splitlines()
    monkeypatch.setattr("moola.data.ingest.csv_file._BLOCK_BYTES", 1024)
    for k in range(10, 40, 3):
        text = "\n".join([*lines[: k + 1], *lines[k:]]) + "\n"
        with pytest.raises(DataError, match=f"{bars.time[k - 1]} more than once"):
            ingest(put(tmp_path, text), "x", tmp_path / "bars")


def test_the_bytes_written_do_not_depend_on_when(tmp_path):
    path = put(tmp_path, csv_of(bars_of(walk(50))))
    first = ingest(path, "x", tmp_path / "a").path.read_bytes()
    assert ingest(path, "x", tmp_path / "b").path.read_bytes() == first


def test_the_module_names_its_repairs():
    assert set(REPAIRS) == {
        "sort", "drop-duplicates", "drop-missing", "drop-violations", "widen",
    }  # fmt: skip
