from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import SHIPPED, bars_of, hours, walk, write_bars

from moola.data import ingest as module
from moola.data.bar_quality import assess
from moola.data.bars import find_repeated_blocks, read_bars
from moola.data.ingest import IngestOptions, ingest
from moola.errors import ConfigError, DataError, MoolaError

# two bars: 2017-01-01 22:00 and 23:00 UTC
TIMES = ["2017-01-01T22:00:00.000000", "2017-01-01T23:00:00.000000"]
OHLC = [[1.10, 1.30, 1.00, 1.20], [1.20, 1.25, 1.15, 1.22]]
BINANCE = "{0},1.10,1.30,1.00,1.20,5,{1},6,7,2,3,0\n{2},1.20,1.25,1.15,1.22,5,{3},6,7,2,3,0\n"
MS = (1483308000000, 1483311599999, 1483311600000, 1483315199999)

FILES = {
    "Binance klines, ms": (BINANCE.format(*MS), {}),
    "Binance klines, us": (BINANCE.format(*(1000 * m for m in MS)), {}),
    "Binance klines, ms then us": (
        BINANCE.format(MS[0], MS[1], MS[2] * 1000, MS[3] * 1000), {}),
    "Binance klines with a header": (
        "open_time,open,high,low,close,volume,close_time,a,b,c,d,e\n" + BINANCE.format(*MS), {}),
    "CryptoDataDownload, newest first": (
        "https://www.CryptoDataDownload.com\n"
        "Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n"
        "2017-01-01 11-PM,BTCUSD,1.20,1.25,1.15,1.22,5,6\n"
        "2017-01-01 10-PM,BTCUSD,1.10,1.30,1.00,1.20,5,6\n", {}),
    "CryptoDataDownload, seconds and milliseconds mixed": (
        "Timestamps are UTC,https://www.CryptoDataDownload.com\n"
        "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD\n"
        "1483311600000,2017-01-01 23:00:00,BTC/USD,1.20,1.25,1.15,1.22,5,6\n"
        "1483308000,2017-01-01 22:00:00,BTC/USD,1.10,1.30,1.00,1.20,5,6\n", {}),
    "Dukascopy": (
        "Gmt time,Open,High,Low,Close,Volume\n"
        "01.01.2017 22:00:00.000,1.10,1.30,1.00,1.20,5\n"
        "01.01.2017 23:00:00.000,1.20,1.25,1.15,1.22,5\n", {}),
    "Dukascopy, local time with offsets": (
        "Local time,Open,High,Low,Close,Volume\n"
        "01.01.2017 23:00:00.000 GMT+0100,1.10,1.30,1.00,1.20,5\n"
        "01.01.2017 18:30:00.000 GMT-0430,1.20,1.25,1.15,1.22,5\n", {}),
    "Databento, fixed point": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "1483308000000000000,34,1,42,1100000000,1300000000,1000000000,1200000000,5,ESZ7\n"
        "1483311600000000000,34,1,42,1200000000,1250000000,1150000000,1220000000,5,ESZ7\n", {}),
    "Databento, pretty": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "2017-01-01T22:00:00.000000000Z,34,1,42,1.10,1.30,1.00,1.20,5,ESZ7\n"
        "2017-01-01T23:00:00.000000000Z,34,1,42,1.20,1.25,1.15,1.22,5,ESZ7\n", {}),
    "yfinance, header of three lines": (
        "Price,Close,High,Low,Open,Volume\nTicker,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X\n"
        "Datetime,,,,,\n2017-01-01 22:00:00+00:00,1.20,1.30,1.00,1.10,5\n"
        "2017-01-01 23:00:00+00:00,1.22,1.25,1.15,1.20,5\n", {}),
    "yfinance, two tickers": (
        "Price,Close,Close,High,High,Low,Low,Open,Open\nTicker,A,B,A,B,A,B,A,B\nDatetime,,,,,,,,\n"
        "2017-01-01 22:00:00+00:00,9,1.20,9,1.30,9,1.00,9,1.10\n"
        "2017-01-01 23:00:00+00:00,9,1.22,9,1.25,9,1.15,9,1.20\n", {"symbol": "B"}),
    "MetaTrader 5, tabs": (
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2017.01.01\t22:00:00\t1.10\t1.30\t1.00\t1.20\t5\t0\t1\n"
        "2017.01.01\t23:00:00\t1.20\t1.25\t1.15\t1.22\t5\t0\t1\n", {}),
    "MetaTrader 4, no header": (
        "2017.01.01,22:00,1.10,1.30,1.00,1.20,5\n2017.01.01,23:00,1.20,1.25,1.15,1.22,5\n", {}),
    "a zone of its own": (
        "Date;Open;High;Low;Close\n2017-01-01 23:00;1.10;1.30;1.00;1.20\n"
        "2017-01-02 00:00;1.20;1.25;1.15;1.22\n", {"timezone": "Europe/Berlin"}),
    "columns and time format given": (
        "01/01/2017 22:00,1.10,1.30,1.00,1.20\n01/01/2017 23:00,1.20,1.25,1.15,1.22\n",
        {"columns": ("time", "open", "high", "low", "close"), "time_format": "%m/%d/%Y %H:%M"}),
    "one of two instruments": (
        "timestamp,symbol,open,high,low,close\n1483308000,X,1.10,1.30,1.00,1.20\n"
        "1483308000,Y,9,9,9,9\n1483311600,X,1.20,1.25,1.15,1.22\n", {"symbol": "X"}),
    "UTC spelled out, byte order mark": (
        "\ufefftime,open,high,low,close\n2017-01-01 22:00:00 UTC,1.10,1.30,1.00,1.20\n"
        "2017-01-01 23:00:00 UTC,1.20,1.25,1.15,1.22\n", {}),
}  # fmt: skip


def put(tmp_path: Path, text: str, name: str = "file.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", list(FILES))
def test_every_known_format_gives_the_same_two_bars(tmp_path, case):
    text, options = FILES[case]
    done = ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(**options))
    bars = read_bars(done.path)
    assert [str(t) for t in bars.time] == TIMES
    assert bars.ohlc.tolist() == OHLC
    assert done.report.facts["format"] in case or case[0].islower() or "UTC" in case
    newest = "newest first" in case or "mixed" in case
    assert done.report.facts["order"] == ("newest first" if newest else "oldest first")


def test_a_compressed_file_is_read(tmp_path):
    path = tmp_path / "file.csv.gz"
    with pa.output_stream(str(path), compression="gzip") as stream:
        stream.write(FILES["Dukascopy"][0].encode())
    assert read_bars(ingest(path, "x", tmp_path / "bars").path).ohlc.tolist() == OHLC


@pytest.mark.parametrize("kind", ["timestamps", "integers", "fixed point", "pandas levels"])
def test_parquet_in_its_usual_shapes(tmp_path, kind):
    prices = {k: np.array(OHLC)[:, i] for i, k in enumerate(("open", "high", "low", "close"))}
    time = pa.array(np.array(TIMES, dtype="datetime64[us]"))
    if kind == "integers":
        time = pa.array([1483308000, 1483311600])
    if kind == "fixed point":
        prices = {k: np.rint(v * 1e9).astype(np.int64) for k, v in prices.items()}
        columns = {"ts_event": time, **prices}
    elif kind == "pandas levels":
        columns = {f"('{k.title()}', 'EURUSD=X')": v for k, v in prices.items()}
        columns["Datetime"] = time
    else:
        columns = {"Timestamp": time, **prices}
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    bars = read_bars(ingest(tmp_path / "f.parquet", "x", tmp_path / "bars").path)
    assert [str(t) for t in bars.time] == TIMES
    assert bars.ohlc.tolist() == OHLC


HEAD = "time,open,high,low,close\n"


def row(hour: int, *prices: object) -> str:
    return f"2017-01-01T{hour:02}:00:00Z," + ",".join(map(str, prices)) + "\n"


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
    "unknown time": ("2017/13/45,1,1,1,1\n", "'2017/13/45' is in no form that is known"),
    "ambiguous date": ("02/03/2017 00:00,1,1,1,1\n", "--time-format"),
    "two time forms": (row(1, 1, 1, 1, 1) + "yesterday,1,1,1,1\n", "a time cannot be read"),
    "no rows": ("", "holds no bars"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_breaks_ohlc_or_time_is_refused_and_nothing_is_written(tmp_path, case):
    text, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        ingest(put(tmp_path, HEAD + text), "x", tmp_path / "bars")
    assert list((tmp_path / "bars").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "x,y\n1,2\n", "missing: open, high, low, close"),
        ("a.csv", "1,2,3\n", "3 columns and no header"),
        ("a.csv", "", "holds no rows"),
        ("a.zip", "PK", "Unpack it first"),
        ("a.parquet", "PAR1 broken", "cannot be read"),
        ("a.csv", "a\0b", "is no text"),
        ("a.csv", "time,open,open,high,low,close\n1,1,1,1,1,1\n", "names a column twice"),
    ],
)
def test_files_of_no_known_format_are_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        ingest(put(tmp_path, content, name), "x", tmp_path / "bars")
    with pytest.raises(DataError, match="does not exist"):
        ingest(tmp_path / "nothing.csv", "x", tmp_path / "bars")


def test_a_time_that_does_not_exist_in_its_zone_is_refused(tmp_path):
    text = HEAD + "2017-03-26 02:30,1,1,1,1\n"
    with pytest.raises(DataError, match=r"2017-03-26 02:30|nonexistent|doesn't exist"):
        ingest(put(tmp_path, text), "x", tmp_path, IngestOptions(timezone="Europe/Berlin"))
    with pytest.raises(DataError, match="cannot be read"):
        ingest(put(tmp_path, text), "x", tmp_path, IngestOptions(timezone="Mars/Olympus"))


def test_several_instruments_are_refused_until_one_is_chosen(tmp_path):
    text = FILES["one of two instruments"][0]
    with pytest.raises(DataError, match=r"several instruments: X, Y. Choose one with --symbol"):
        ingest(put(tmp_path, text), "x", tmp_path / "bars")
    with pytest.raises(
        DataError, match=r"holds 2 tickers and --symbol is None; expected one of A, B"
    ):
        ingest(put(tmp_path, FILES["yfinance, two tickers"][0]), "x", tmp_path / "bars")
    with pytest.raises(DataError, match="holds no bars"):
        ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(symbol="Z"))


def test_repairs_do_what_they_say_and_are_recorded(tmp_path):
    text = HEAD + (
        row(3, 5, 6, 4, 5) + row(1, 1, 1.5, 1.1, 1.2) + row(2, 2, 2, 2, 2)
        + row(2, 9, 9, 9, 9) + row(4, "", 1, 1, 1)
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


def csv_of(bars, newest_first: bool = False) -> str:
    lines = [
        f"{t}Z," + ",".join(map(repr, p))
        for t, p in zip(bars.time.astype("datetime64[s]"), bars.ohlc.tolist(), strict=True)
    ]
    return HEAD + "\n".join(lines[::-1] if newest_first else lines) + "\n"


@pytest.mark.parametrize("order", ["oldest first", "newest first", "shuffled"])
def test_many_chunks_come_out_as_one_in_order(tmp_path, monkeypatch, order):
    """Chunks of a few rows: every boundary is crossed, the last row of one begins the next."""
    bars = bars_of(walk(700))
    text = csv_of(bars, newest_first=order == "newest first")
    if order == "shuffled":
        lines = text.splitlines()
        body = np.array(lines[1:])[np.random.default_rng(0).permutation(700)]
        text = "\n".join([lines[0], *body]) + "\n"
    monkeypatch.setattr("moola.data.ingest_formats._BLOCK_BYTES", 4096)
    monkeypatch.setattr("moola.data.ingest_spool._BUCKET_ROWS", 90)
    monkeypatch.setattr("moola.data.bar_quality_scan._BATCH_ROWS", 37)
    options = IngestOptions(repairs=("sort",) if order == "shuffled" else ())
    done = ingest(put(tmp_path, text), "x", tmp_path / "bars", options)
    read = read_bars(done.path)
    assert np.array_equal(read.ohlc, bars.ohlc)
    assert np.array_equal(read.time, bars.time)


def test_a_duplicate_over_the_border_of_two_chunks_is_found(tmp_path, monkeypatch):
    bars = bars_of(walk(400))
    lines = csv_of(bars).splitlines()
    monkeypatch.setattr("moola.data.ingest_formats._BLOCK_BYTES", 1024)
    for k in range(10, 40, 3):
        text = "\n".join([*lines[: k + 1], *lines[k:]]) + "\n"
        with pytest.raises(DataError, match=f"{bars.time[k - 1]} more than once"):
            ingest(put(tmp_path, text), "x", tmp_path / "bars")


def test_the_shipped_bars_are_judged_without_being_told(tmp_path):
    btc, eur = (
        ingest(SHIPPED / f"{n}.parquet", n, tmp_path).report for n in ("btcusd_1h", "eurusd_1h")
    )
    assert btc.counts == {
        "gaps": 0, "repeated_blocks": 1, "flat_bars": 30, "flat_runs": 4, "jumps": 13,
    }  # fmt: skip
    (block,) = btc.findings["repeated_blocks"]
    assert block.num_bars == 5
    assert block.time == "2017-11-12T04:00:00.000000"
    assert "5 bars from 2017-11-11T23:00:00" in block.detail
    assert eur.counts["gaps"] == 52
    weekends = [g for g in eur.findings["gaps"] if 48 <= g.size <= 50]
    assert len(weekends) == 51
    assert (btc.bar_seconds, eur.bar_seconds) == (3600.0, 3600.0)


def test_the_page_needs_nothing_else(tmp_path):
    done = ingest(SHIPPED / "eurusd_1h.parquet", "eurusd_1h", tmp_path)
    page = done.page_path.read_text()
    assert page.startswith("<!doctype html>")
    assert "data:image/png;base64," in page
    assert "49 hours after 2017-01-06T21:00" in page
    assert not any(link in page for link in ("http:", "https:", "<script", 'href="'))
    quiet = ingest(put(tmp_path, HEAD + row(1, 1, 1, 1, 1)), "one", tmp_path)
    assert "None found." in quiet.page_path.read_text()


def test_the_bytes_written_do_not_depend_on_when(tmp_path):
    path = put(tmp_path, csv_of(bars_of(walk(50))))
    first = ingest(path, "x", tmp_path / "a").path.read_bytes()
    assert ingest(path, "x", tmp_path / "b").path.read_bytes() == first


@pytest.mark.parametrize("batch", [3, 7, 1000])
def test_the_report_by_hand_whatever_the_batches(tmp_path, monkeypatch, batch):
    ohlc = walk(60)
    ohlc[40:44] = ohlc[10:14]
    for k in (0, 20, 21, 22, 59):
        ohlc[k] = ohlc[k, 3]
    time = np.concatenate([hours(30), hours(30, "2020-01-05T00")])
    path = write_bars(tmp_path, bars_of(ohlc, time=time))
    monkeypatch.setattr("moola.data.bar_quality_scan._BATCH_ROWS", batch)
    report = assess(path, jump_mad=1e9)
    assert report.counts == {
        "gaps": 1, "repeated_blocks": 1, "flat_bars": 5, "flat_runs": 1, "jumps": 0,
    }  # fmt: skip
    (gap,) = report.findings["gaps"]
    # 29th hour of 2020-01-02 05:00 to 2020-01-05 00:00: 67 hours, 66 bars missing
    assert (gap.row, gap.num_bars, gap.size) == (30, 66, 67.0)
    (block,) = report.findings["repeated_blocks"]
    (known,) = find_repeated_blocks(ohlc)
    assert (block.row, block.num_bars) == (known.again, known.num_bars) == (40, 4)
    assert [(f.row, f.num_bars) for f in report.findings["flat_runs"]] == [(0, 1), (20, 3), (59, 1)]
    changes = np.diff(ohlc[:, 3]) / ohlc[:-1, 3]
    assert report.change_median == pytest.approx(np.median(changes), rel=1e-5)
    mad = np.median(np.abs(changes - np.median(changes)))
    assert report.change_mad == pytest.approx(mad, rel=1e-4)
    limit = float(np.sort(np.abs(changes - np.median(changes)))[-3] / mad) - 0.01
    assert assess(path, jump_mad=limit).counts["jumps"] == 3


def test_the_module_names_its_repairs():
    assert set(module.REPAIRS) == {
        "sort", "drop-duplicates", "drop-missing", "drop-violations", "widen",
    }  # fmt: skip
