"""Ingest refuses what it cannot know: kinds of wrong readings, each with instances of its own."""

from __future__ import annotations

import json
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_kit import HEAD, hours_of, put, read, table
from pyarrow import feather

from moola.data.bars import read_bars
from moola.data.ingest import IngestOptions, ingest
from moola.errors import DataError

NINE = "2019-03-05T09:00:00"
TEN = "2019-03-05T10:00:00"
BARS = "{},1.10,1.30,1.00,1.20\n{},1.20,1.25,1.15,1.22\n"


def parquet(tmp_path, **columns):
    pq.write_table(pa.table(table(**columns)), tmp_path / "f.parquet")
    return tmp_path / "f.parquet"


# text of the file, options, and the two times it holds or the words of its refusal
TEXTS = {
    "digits that are a date: YYYYMMDDHH": (hours_of("2019030509", "2019030510"), {}, [NINE, TEN]),
    "digits that are a date: 14": (hours_of("20190305090000", "20190305100000"), {}, [NINE, TEN]),
    "digits that are a date, one is none": (
        hours_of("201903050900", "201903320900"), {}, "201903320900 is no date"),
    "a count of days: Excel": (hours_of("43529", "43530"), {}, "count of days.*--epoch-unit days"),
    "a count of days: Excel, said": (
        hours_of("43529.375", "43529.416666667"), {"epoch_unit": "excel"}, [NINE, TEN]),
    "a count of days: MATLAB": (hours_of("737489.375"), {}, "MATLAB.*--epoch-unit matlab"),
    "a count of days: Julian": (hours_of("2458548", "2458549"), {}, "Julian"),
    "row numbers": (hours_of("1", "2", "3"), {}, "row numbers"),
    "years": (hours_of("2019", "2020"), {}, "count of days|no epoch"),
    "negative seconds": (hours_of("-3600", "0"), {}, "no epoch of the years 1971 to 2099"),
    "scientific notation": (hours_of("1.5517764E+09"), {}, "no form that is known"),
    "two units in one column": (hours_of("1551776400", "1551780000000"), {}, "s and ms"),
    "units that change far down": (
        hours_of(*map(str, range(1551776400, 1551776400 + 150)), "1551780000000"), {},
        "s and ms"),
    "epoch as text with a fraction of ms": (
        hours_of("1551776400000.0", "1551780000000.0"), {}, [NINE, TEN]),
    "a day of a leap year that was none": (
        hours_of("29.02.2019 00:00"), {}, "'29.02.2019 00:00' does not exist"),
    "31 April by a format": (
        hours_of("04/30/2019", "04/31/2019"), {"time_format": "%m/%d/%Y"}, "'04/31/2019' does not"),
    "31 June in ISO": (hours_of("2019-06-30", "2019-06-31"), {}, "'2019-06-31' does not exist"),
    "hour 24": (hours_of("05.03.2019 24:00"), {}, "does not exist"),
    "second 60 by a format": (
        hours_of("2019-03-05 09:00:60"), {"time_format": "%Y-%m-%d %H:%M:%S"}, "does not exist"),
    "a weekday that was another": (
        hours_of("Mon 05 Mar 2019"), {"time_format": "%a %d %b %Y"}, "does not exist"),
    "ambiguous slashes": (hours_of("03/05/2019 09:00"), {}, r"'%m/%d/%Y %H:%M' or '%d/%m/%Y"),
    "a format without a date": (hours_of("09:00"), {"time_format": "%H:%M"}, "no whole date"),
    "a format with %Z": (
        hours_of("2019-03-05 09:00 CET"), {"time_format": "%Y-%m-%d %H:%M %Z"}, "has %Z"),
    "a format with the zone's name": (
        hours_of("2019-03-05 09:00 EST"), {"time_format": "%Y-%m-%d %H:%M EST"},
        "says 'EST'. Say which zone"),
    "and its zone said": (
        hours_of("2019-03-05 04:00 EST", "2019-03-05 05:00 EST"),
        {"time_format": "%Y-%m-%d %H:%M EST", "timezone": "EST"}, [NINE, TEN]),
    "a format with %s": (hours_of("1551776400"), {"time_format": "%s"}, "--epoch-unit"),
    "a directive nobody knows": (hours_of("1"), {"time_format": "%Y-%m-%d %Q"}, "has %Q"),
    "a zone for times that state theirs": (
        hours_of(f"{NINE}+01:00"), {"timezone": "Asia/Tokyo"}, "state their zone"),
    "a zone for an epoch": (
        hours_of("1551776400"), {"timezone": "Asia/Tokyo"}, "state their zone"),
    "a unit for texts": (hours_of(NINE), {"epoch_unit": "ms"}, "--epoch-unit|no number"),
    "PostgreSQL's offset": (
        hours_of("2019-03-05 10:00:00+01", "2019-03-05 11:00:00+01"), {}, [NINE, TEN]),
    "slashes, the year first": (
        hours_of("2019/03/05 09:00", "2019/03/05 10:00"), {}, [NINE, TEN]),
    "half days": (hours_of("2019-03-05 09:00 AM", "2019-03-05 10:00 AM"), {}, [NINE, TEN]),
    "names of months": (hours_of("05-Mar-2019 09:00", "05-Mar-2019 10:00"), {}, [NINE, TEN]),
    "a zone in every row but one": (
        hours_of(f"{NINE}Z", TEN), {}, "does not exist or is not written as"),
    "a zone in the header": (
        "Time (EST),open,high,low,close\n" + BARS.format(NINE, TEN), {}, "says 'Time .EST.'"),
    "another zone in the header": (
        "Date_ET,open,high,low,close\n" + BARS.format(NINE, TEN), {}, "says 'Date_ET'"),
    "an IANA zone in the header": (
        "time (America/New_York),open,high,low,close\n"
        + BARS.format("2019-03-05T04:00:00", "2019-03-05T05:00:00"), {}, [NINE, TEN]),
    "UTC in the header and another said": (
        "time_utc,open,high,low,close\n" + BARS.format(NINE, TEN), {"timezone": "EST"},
        "the header says UTC"),
    "a zone in a comment": (
        "# times are US Eastern\n" + hours_of(NINE, TEN), {}, "Say which zone"),
    "a zone in a column": (
        "time,tz,open,high,low,close\n2019-03-05T09:00,US/Eastern,1,1,1,1\n", {}, "column tz"),
    "an epoch beside a naive time": (
        "date,open,high,low,close,timestamp\n2019-03-05 04:00,1,1,1,1,1551776400\n"
        "2019-03-05 05:00,1,1,1,1,1551780000\n", {}, [NINE, TEN]),
    "an offset beside date and time": (
        "date,time,datetime,open,high,low,close\n2019-03-05,04:00,2019-03-05T09:00Z,1,1,1,1\n"
        "2019-03-05,05:00,2019-03-05T10:00Z,1,1,1,1\n", {}, [NINE, TEN]),
    "the opening time after the closing time": (
        "close_time,open_time,open,high,low,close\n1551779999,1551776400,1,1,1,1\n"
        "1551783599,1551780000,1,1,1,1\n", {}, [NINE, TEN]),
    "start and end": (
        "end,start,open,high,low,close\n2019-03-05T10:00Z,2019-03-05T09:00Z,1,1,1,1\n"
        "2019-03-05T11:00Z,2019-03-05T10:00Z,1,1,1,1\n", {}, [NINE, TEN]),
    "only a closing time": (
        "close_time,open,high,low,close\n1551779999,1,1,1,1\n", {}, "--time-column close_time"),
    "two times that disagree": (
        "timestamp,datetime,open,high,low,close\n1551776400,2019-03-05T08:00Z,1,1,1,1\n", {},
        "hold different times.*--time-column timestamp"),
    "and one of them chosen": (
        "timestamp,datetime,open,high,low,close\n1,2019-03-05T09:00Z,1,1,1,1\n"
        "2,2019-03-05T10:00Z,1,1,1,1\n", {"time_column": ("datetime",)}, [NINE, TEN]),
    "a time column that is not there": (
        hours_of(NINE), {"time_column": ("when",)}, "one or two of time, open"),
    "the unit in the name, another in the numbers": (
        "time_ms,open,high,low,close\n1551776400,1,1,1,1\n", {}, "says ms, and its numbers are s"),
    "an index without a name": (
        ",open,high,low,close\n" + BARS.format(NINE, TEN), {}, [NINE, TEN]),
    "an index of numbers without a name": (
        ",open,high,low,close\n" + BARS.format("1551776400", "1551780000"), {}, "missing: a time"),
    "no header, a word first": (
        "X," + BARS.format(NINE, "X," + TEN).replace("\nX,", "\nX,"),
        {"columns": ("symbol", "time", "open", "high", "low", "close")}, [NINE, TEN]),
    "a header and columns that contradict it": (
        hours_of(NINE), {"columns": ("time", "open", "low", "high", "close")}, "calls a column"),
    "too few columns named": (
        hours_of(NINE), {"columns": ("time", "open", "high", "low")}, "fields|missing: close"),
    "vertical tabs in a comment": (
        "# a\vb\x85c\u2028d\n" + hours_of(NINE, TEN), {}, [NINE, TEN]),
    "old Mac line ends": (hours_of(NINE, TEN).replace("\n", "\r"), {}, [NINE, TEN]),
    "blank lines above": ("\n\r\n\n" + hours_of(NINE, TEN), {}, [NINE, TEN]),
    "200 comments and a commented header": (
        "# note\n" * 200 + "# " + HEAD + BARS.format(NINE, TEN), {}, [NINE, TEN]),
    "comments between header and data": (
        HEAD + "# note\n" + BARS.format(NINE, TEN) + "# end\n", {}, [NINE, TEN]),
    "a header over two lines": (
        '"time\n(UTC)",open,high,low,close\n' + BARS.format(NINE, TEN), {}, [NINE, TEN]),
    "sep= of a spreadsheet": (
        "sep=;\n" + hours_of(NINE, TEN).replace(",", ";"), {}, [NINE, TEN]),
    "numbered names": (
        "timestamp,1. open,2. high,3. low,4. close,5. volume\n"
        "2019-03-05T09:00Z,1,1,1,1,5\n2019-03-05T10:00Z,1,1,1,1,5\n", {}, [NINE, TEN]),
    "one letter each": (
        "t,o,h,l,c,v\n1551776400000,1,1,1,1,5\n1551780000000,1,1,1,1,5\n", {}, [NINE, TEN]),
    "two columns of volume": (
        "time,open,high,low,close,Volume,Volume\n2019-03-05T09:00Z,1,1,1,1,5,6\n"
        "2019-03-05T10:00Z,1,1,1,1,5,6\n", {}, [NINE, TEN]),
    "date and time by a format": (
        "Date,Time,open,high,low,close\n03/05/2019,09:00,1,1,1,1\n03/05/2019,10:00,1,1,1,1\n",
        {"time_format": "%m/%d/%Y %H:%M"}, [NINE, TEN]),
    "footnote marks at the prices": (
        "Date,Open*,High,Low,Close**,Adj Close**\n2019-03-05 09:00,1,1,1,1,9\n"
        "2019-03-05 10:00,1,1,1,1,9\n", {}, [NINE, TEN]),
    "bid and ask": (
        "time,open (bid),high,low,close,open (ask)\n2019-03-05,1,1,1,1,1\n", {}, "are both open"),
    "decimal comma not said": (
        'time;open;high;low;close\n2019-03-05;1,1;1,3;1,0;1,2\n', {}, "--decimal"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TEXTS))
def test_a_text_is_read_exactly_or_refused(tmp_path, case):
    text, options, expected = TEXTS[case]
    path = put(tmp_path, text)
    if isinstance(expected, list):
        assert read(path, **options)[0] == expected
        return
    with pytest.raises(DataError, match=expected) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)


STAMPS = np.array(["2019-03-05T09:00", "2019-03-05T10:00"], dtype="datetime64[us]")
TYPED = {
    "digits that are a date": (
        {"date": [20190305, 20190306]}, {}, ["2019-03-05T00:00:00", "2019-03-06T00:00:00"]),
    "digits in floats": ({"date": [2019030509.0, 2019030510.0]}, {}, [NINE, TEN]),
    "a format for digits": (
        {"date": [201905, 201906]}, {"time_format": "%Y%m"}, "no whole date"),
    "a format for digits that the digits are not": (
        {"date": [20190305, 20190306]}, {"time_format": "%d%m%Y"}, "does not exist|not written"),
    "a format for times": ({"time": STAMPS}, {"time_format": "%Y"}, "no whole date"),
    "a whole format for times": (
        {"time": STAMPS}, {"time_format": "%Y-%m-%d"}, "stored as times.*Leave --time-format out"),
    "row numbers of pandas": (
        {"__index_level_0__": [5, 6]}, {}, "missing: a time"),
    "row numbers called time": ({"time": [0, 1]}, {}, "row numbers"),
    "a time of no known name": ({"when": STAMPS, "n": [0, 1]}, {}, [NINE, TEN]),
    "two times of no known name": ({"when": STAMPS, "then": STAMPS}, {}, "--time-column when"),
    "columns renamed": (
        {"x": STAMPS}, {"columns": ("time", "open", "high", "low", "close")}, [NINE, TEN]),
    "too few columns renamed": (
        {"x": STAMPS}, {"columns": ("time", "open", "high")}, "names 3 columns.*has 5"),
    "prices as decimals": ({"time": STAMPS, "close": [Decimal("1.15"), Decimal("1.25")]}, {},
                           [NINE, TEN]),
    "times as a dictionary": (
        {"time": pa.array([NINE + "Z", TEN + "Z"]).dictionary_encode()}, {}, [NINE, TEN]),
    "times that are flags": ({"time": [True, False]}, {}, "type bool"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TYPED))
def test_a_parquet_file_is_read_exactly_or_refused(tmp_path, case):
    columns, options, expected = TYPED[case]
    path = parquet(tmp_path, **columns)
    if isinstance(expected, list):
        assert read(path, **options)[0] == expected
        return
    with pytest.raises(DataError, match=expected):
        read(path, **options)


def test_decimals_and_whole_prices_are_exact(tmp_path):
    exact = ["0.1", "1.00000001", "99999.99999999"]
    column = pa.array([Decimal(x) for x in exact]).cast(pa.decimal128(38, 20))
    times = [1551776400, 1551780000, 1551783600]
    prices = dict.fromkeys(("open", "high", "low", "close"), column)
    path = parquet(tmp_path, time=times, **prices)
    assert [p[0] for p in read(path)[1]] == [float(x) for x in exact]
    # nanoseconds in ts_event do not make a price a fixed point; Databento's own columns do
    whole = {p: [7_000_000_000, 8_000_000_000] for p in ("open", "high", "low", "close")}
    nanos = [1551776400 * 10**9, 1551780000 * 10**9]
    assert read(parquet(tmp_path, ts_event=nanos, **whole))[1][0] == [7e9] * 4
    own = {"rtype": [34, 34], "publisher_id": [1, 1], "instrument_id": [5, 5]}
    assert read(parquet(tmp_path, ts_event=nanos, **own, **whole))[1][0] == [7.0] * 4


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("2019-03-05T09:00Z;1.234,5;1.234,75;1.234,0;1.234,5\n",
         {"decimal": ",", "thousands": "."}),
        ("2019-03-05T09:00Z;1234,5;1234,75;1234;1234,5\n", {"decimal": ","}),
        ("2019-03-05T09:00Z;1,234.5;1,234.75;1,234;1,234.5\n", {"thousands": ","}),
    ],
)  # fmt: skip
def test_numbers_are_read_as_the_options_say(tmp_path, text, options):
    path = put(tmp_path, HEAD.replace(",", ";") + text)
    assert read(path, **options)[1] == [[1234.5, 1234.75, 1234.0, 1234.5]]
    with pytest.raises(DataError):
        read(path)


VOLUMES = {
    "1.2K": 1200.0, "-": None, '"1,200"': 1200.0, "3M": 3e6, "": None, "n/a": None, "7": 7.0,
    "123456789012345678901234567890": 123456789012345678901234567890.0, "1e3": 1000.0,
    "many": None, "inf": None, "0.5B": 5e8, '"1,2,3"': None,
}  # fmt: skip


def test_volume_is_never_a_reason_to_refuse(tmp_path):
    rows = [f"2019-03-05T{h:02}:00Z,1,1,1,1,{v}\n" for h, v in enumerate(VOLUMES)]
    path = put(tmp_path, HEAD.replace("\n", ",volume\n") + "".join(rows))
    done = ingest(path, "x", tmp_path / "bars")
    found = pq.read_table(done.path)["volume"].to_pylist()
    assert found == list(VOLUMES.values())
    assert "4 without volume" in done.report.facts["outcome"]["rows"]
    huge = pa.array([2**63, 2**64 - 1], pa.uint64())
    for odd in ([["a"], ["b"]], [True, False], ["1.2K", "x"], huge):
        assert read(parquet(tmp_path, time=STAMPS, volume=odd))[0] == [NINE, TEN]


OTHER_FILES = {
    "feather": lambda p, t: feather.write_feather(t, p / "f"),
    "zip of parquet": lambda p, t: _zip(p, {"a/b.parquet": _bytes(t)}),
    "zip of a CSV": lambda p, t: _zip(p, {"b.csv": hours_of(NINE, TEN).encode()}),
    "JSON lines of objects": lambda p, t: (p / "f").write_text(
        "".join(json.dumps({"time": x, "open": 1.1, "high": 1.3, "low": 1.0, "close": 1.2}) + "\n"
                for x in (NINE + "Z", TEN + "Z"))),
    "JSON lines of arrays": lambda p, t: (p / "f").write_text(
        "".join(f"[{x}, 1.1, 1.3, 1.0, 1.2, 5]\n" for x in (1551776400000, 1551780000000))),
    "an array of arrays (ccxt, freqtrade)": lambda p, t: (p / "f").write_text(
        json.dumps([[x, 1.1, 1.3, 1.0, 1.2, 5] for x in (1551776400000, 1551780000000)])),
    "an array over many lines": lambda p, t: (p / "f").write_text(
        json.dumps([[x, 1.1, 1.3, 1.0, 1.2, 5] for x in (1551776400000, 1551780000000)], indent=2)),
    "an array of Binance's": lambda p, t: (p / "f").write_text(
        json.dumps([[x, "1.1", "1.3", "1.0", "1.2", "5", x + 1, "6", 7, "2", "3", "0"]
                    for x in (1551776400000, 1551780000000)])),
}  # fmt: skip


def _bytes(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return sink.getvalue().to_pybytes()


def _zip(folder, members):
    with zipfile.ZipFile(folder / "f", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("kind", list(OTHER_FILES))
def test_other_files_give_the_same_bars(tmp_path, kind):
    OTHER_FILES[kind](tmp_path, pa.table(table(time=STAMPS)))
    assert read(tmp_path / "f") == ([NINE, TEN], [[1.1, 1.3, 1.0, 1.2]] * 2)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.csv": b"x", "b.csv": b"y"}, "holds 2 files: a.csv, b.csv"),
        ({"a.zip": b"PK\x03\x04"}, "is a zip archive"),
        ({"[Content_Types].xml": b"", "xl/workbook.xml": b""}, "Office document"),
        ({}, "cannot be unpacked|holds 0 files"),
    ],
)
def test_archives_that_are_no_bar_file_are_refused(tmp_path, members, message):
    _zip(tmp_path, members)
    (tmp_path / "f").rename(tmp_path / "f.zip")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "f.zip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1, 2, 3]]", "rows of 3 values without names"),
        ('{"a": [1, 2]}', "one JSON object"),
        ("[[1551776400, 1, 1, 1, 1, 5], [1551780000, 1, 1]]", "row 1 is not of the form"),
        ("[[1551776400, 1, 1, 1, 1, {}], [1551780000, 1, 1, 1, 1, []]]", "inside a row"),
        ("[[1551776400, 1, ", "cannot be read as JSON"),
        ("[]", "holds no rows"),
    ],
)
def test_json_of_no_known_form_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(put(tmp_path, text, "f.json"))


SYMBOLS = {
    "Ticker, disjoint in time": (
        "time,Ticker,open,high,low,close\n2019-03-05T09:00Z,A,1,1,1,1\n"
        "2019-03-05T10:00Z,B,9,9,9,9\n", "Ticker: A, B.*--where Ticker=A"),
    "two kinds of candle": (
        "time,interval,open,high,low,close\n2019-03-05T09:00Z,1h,1,1,1,1\n"
        "2019-03-05T10:00Z,4h,9,9,9,9\n", "interval: 1h, 4h"),
    "a partial candle": (
        "time,open,high,low,close,complete\n2019-03-05T09:00Z,1,1,1,1,True\n"
        "2019-03-05T10:00Z,9,9,9,9,False\n", "complete: False, True"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(SYMBOLS))
def test_bars_of_several_instruments_never_become_one_series(tmp_path, case):
    text, message = SYMBOLS[case]
    path = put(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read(path)
    column = text.splitlines()[1].split(",")
    name = next(n for n in ("Ticker", "interval", "complete") if n in text)
    value = column[text.splitlines()[0].split(",").index(name)]
    assert read(path, where={name: value})[1] == [[1.0] * 4]
    with pytest.raises(DataError, match="holds no bars of 'Z'"):
        read(path, where={name: "Z"})
    with pytest.raises(DataError, match="names column 'nix'"):
        read(path, where={"nix": "Z"})


CONTRADICTIONS = {
    "a column of an unknown name": (
        "time,desk,open,high,low,close\n2019-03-05T09:00Z,one,1,1,1,1\n"
        "2019-03-05T09:00Z,two,9,9,9,9\n", ("drop-duplicates",), "1 rows .*desk: one, two"),
    "nothing tells them apart": (
        HEAD + "2019-03-05T09:00Z,1,1,1,1\n2019-03-05T09:00Z,1,2,1,2\n",
        ("sort", "drop-duplicates"), "1 rows .*No column tells them apart"),
    "two series, one after the other": (
        "time,desk,open,high,low,close\n" + "".join(
            f"2019-03-05T{h:02}:{30 * k:02}Z,{desk},{k + 1},{k + 1},{k + 1},{k + 1}\n"
            for k, desk in enumerate(("one", "two")) for h in range(9, 14)),
        ("sort",), "several series.*desk: one, two"),
}  # fmt: skip


@pytest.mark.medium
@pytest.mark.parametrize("case", list(CONTRADICTIONS))
def test_no_repair_merges_bars_that_contradict_each_other(tmp_path, case):
    text, repairs, message = CONTRADICTIONS[case]
    with pytest.raises(DataError, match=message):
        ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(repairs=repairs))
    assert list((tmp_path / "bars").iterdir()) == []


@pytest.mark.medium
def test_symbol_works_for_any_column(tmp_path):
    text = CONTRADICTIONS["a column of an unknown name"][0]
    done = ingest(put(tmp_path, text), "x", tmp_path / "bars", IngestOptions(symbol="two"))
    assert read_bars(done.path).ohlc.tolist() == [[9.0] * 4]
    with pytest.raises(DataError, match=r"no column of .* holds it"):
        read(put(tmp_path, text), symbol="three")


def many(*, step: int = 3600, num: int = 30, begin: str = "2019-03-05T00:00") -> list[str]:
    start = np.datetime64(begin, "s")
    return [str(start + k * np.timedelta64(step, "s")) + "Z" for k in range(num)]


ABSURD = {
    "early": (hours_of(*many(begin="1970-01-01T00:00", step=20)), {}),
    "early, numbers": (hours_of("20170102", "20170103"), {"epoch_unit": "us"}),
    "sub-second": (hours_of(*(str(1551776400000 + k) for k in range(9))), {}),
    "odd-steps": (hours_of(*(f"2019-03-05T09:{m:02}Z" for m in (0, 1, 4, 9, 25))), {}),
    "hole": (hours_of("1975-01-01T00:00Z", *many()), {}),
    "future": (hours_of(*many(begin="2033-01-01T00:00")), {}),
    "partial": (hours_of(*many(), "2019-03-06T06:37:12Z"), {}),
}


@pytest.mark.medium
@pytest.mark.parametrize("case", list(ABSURD))
def test_an_absurd_outcome_is_refused_until_it_is_accepted(tmp_path, case):
    text, options = ABSURD[case]
    path, name = put(tmp_path, text), case.partition(",")[0]
    if case == "early, numbers":  # the unit was named: that is what the user means
        assert ingest(path, "x", tmp_path / "bars", IngestOptions(**options)).report.num_bars == 2
        return
    with pytest.raises(DataError, match=f"If it is so, take --accept {name}"):
        ingest(path, "x", tmp_path / "bars", IngestOptions(**options))
    assert list((tmp_path / "bars").iterdir()) == []
    done = ingest(path, "x", tmp_path / "bars", IngestOptions(**options, accept=(name,)))
    assert done.report.facts["accepted"] == name


@pytest.mark.medium
def test_the_outcome_in_five_lines(tmp_path):
    text = "time,ccy,open,high,low,close\n" + "".join(
        f"2019-03-05T{h:02}:00:00,{c},1.25,1.75,1.25,1.5\n" for h in (0, 1, 2, 4, 5) for c in "AB"
    )
    path = put(tmp_path, text + "2019-03-05T05:00:00,A,1.25,1.75,1.25,1.5\n,A,1,1,1,1\n")
    repairs = ("drop-duplicates", "drop-missing")
    done = ingest(path, "x", tmp_path / "bars", IngestOptions(where={"ccy": "A"}, repairs=repairs))
    assert done.report.facts["outcome"] == {
        "times": "2019-03-05 00:00 to 2019-03-05 05:00 UTC; taken as UTC: the file names no zone; "
        "column time: ISO 8601",
        "step": "1 h, 3 of 4 steps (75.0%); others from 2 h to 2 h",
        "rows": "12 read, 5 bars; left out: 5 other instruments, 1 by drop-duplicates, "
        "1 by drop-missing",
        "prices": "1.25 to 1.75, tick 0.25",
        "years": "2019: 5",
    }
    assert json.loads(done.report_path.read_text())["facts"]["outcome"]["years"] == "2019: 5"


@pytest.mark.medium
@pytest.mark.parametrize("price", ["1e39", "1e-40"])
def test_prices_beyond_single_precision_are_refused(tmp_path, price):
    path = put(tmp_path, HEAD + f"2019-03-05T09:00Z,{price},{price},{price},{price}\n")
    with pytest.raises(DataError, match=r"single precision does not hold .1e-37 to 3e.38"):
        ingest(path, "x", tmp_path / "bars")
