"""One reading of time: decided once a column, exact, and nothing moved or guessed."""

from __future__ import annotations

import pyarrow as pa
import pytest

from moola.errors import DataError
from moola.times import TimeReader, read_time, read_times


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        ([1551776400], [1551780000000], "is no epoch in s like the column's first"),
        ([20190305], [20190332], "20190332 is no date"),
        ([201903050900], [1551780000000], "is no date"),
        (["2019-03-05T09:00"], ["2019-03-05T10:00Z"], "not written as the column's first"),
        (["05.03.2019 09:00"], ["2019-03-05 10:00"], "is not written as the column's first"),
        (["1551776400"], ["2019-03-05T10:00Z"], "is no number, though the column's first is"),
    ],
)
def test_the_first_chunk_decides_for_the_whole_column(first, later, message):
    reader = TimeReader()
    reader.read(pa.array(first))
    with pytest.raises(DataError, match=message):
        reader.read(pa.array(later))


def test_empty_values_decide_nothing():
    reader = TimeReader()
    assert reader.read(pa.array(["", None])).null_count == 2
    assert reader.written == "empty"
    assert str(reader.read(pa.array(["20190305", ""]))[0]) == "2019-03-05 00:00:00+00:00"


def test_a_source_known_to_mix_two_units_may_do_so_from_any_row_on():
    reader = TimeReader(mixed_units=("ms", "us"))
    reader.read(pa.array([1483308000000]))
    mixed = reader.read(pa.array([1483311600000, 1483315200000000]))
    assert [v.as_py().hour for v in mixed] == [23, 0]
    with pytest.raises(DataError, match="no epoch in ms and us"):
        reader.read(pa.array([1483308000]))


@pytest.mark.parametrize(
    ("unit", "number", "expected"),
    [
        ("s", -86400, "1969-12-31 00:00:00+00:00"),
        ("ns", 1551776400123456789, "2019-03-05 09:00:00.123456+00:00"),
        ("days", 17960.375, "2019-03-05 09:00:00+00:00"),
        ("excel", 43529, "2019-03-05 00:00:00+00:00"),
        ("excel", 43529.375, "2019-03-05 09:00:00+00:00"),
        ("matlab", 737489, "2019-03-05 00:00:00+00:00"),
    ],
)
def test_a_unit_that_is_said_is_taken(unit, number, expected):
    assert str(read_times(pa.array([number]), epoch_unit=unit)[0]) == expected


@pytest.mark.parametrize("options", [{"epoch_unit": "h"}, {"epoch_unit": "s", "time_format": "%F"}])
def test_units_that_cannot_be_are_refused(options):
    with pytest.raises(DataError, match="one of"):
        TimeReader(**options)


@pytest.mark.parametrize(
    ("time", "zone", "message"),
    [
        ("2017-03-26 02:30", "Europe/Berlin", "exist"),
        ("2017-10-29 02:30", "Europe/Berlin", "mbiguous"),
        ("2017-10-29 02:30", "Mars/Olympus", "cannot be read"),
        ("", "UTC", "is empty"),
        ("03/05/2019", "UTC", "no form that is known"),
        ("1600-01-01", "UTC", "year 1600"),
    ],
)
def test_one_time_is_read_as_a_column_is(time, zone, message):
    with pytest.raises(DataError, match=message):
        read_time(time, zone=zone)


def test_one_time_without_a_zone_is_in_the_one_given():
    assert str(read_time("2019-03-05T09:00")) == "2019-03-05 09:00:00+00:00"
    assert str(read_time("2019-03-05T09:00", zone="Asia/Tokyo")) == "2019-03-05 00:00:00+00:00"
    assert str(read_time("2019-03-05 09:00:00.5+09:00")) == "2019-03-05 00:00:00.500000+00:00"
    assert str(read_time("05 Mar 2019 09:00 -0130")) == "2019-03-05 10:30:00+00:00"
