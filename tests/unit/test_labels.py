"""Labels: each rule by hand, its horizon, and a user's labels by file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import bars_of, flat, hours, walk

from moola.config.data import WindowRecipe
from moola.data.bars import Bars
from moola.data.labels import label_windows
from moola.data.user_labels import place_labels, read_label_file
from moola.data.windows import window_starts
from moola.errors import DataError

# a window of 4 bars, H = 2. Levels 10 11 10 11 with spread 0.5: every 2-bar range is
# 11.5 - 9.5 = 2, so the median is 2.
WINDOW = [10, 11, 10, 11]


def recipe(**values) -> WindowRecipe:
    return WindowRecipe(**{"source": "walk", "window_bars": 4, "horizon_bars": 2, **values})


@pytest.mark.parametrize(
    ("ahead", "label"),
    [
        ([11, 11], 0),  # range 1
        ([11, 10], 0),  # range 2: not wider than the median
        ([11, 12.5], 1),  # range 13 - 10.5 = 2.5
        ([9, 8], 0),  # range 9.5 - 7.5 = 2
        ([9, 7.9], 1),  # range 2.1
    ],
)
def test_expansion_by_hand(ahead, label):
    bars = bars_of(flat([*WINDOW, *ahead], 0.5))
    assert label_windows(bars, np.array([0]), recipe()).y.tolist() == [label]


@pytest.mark.parametrize(
    ("window", "ahead", "label"),
    [
        (WINDOW, [11, 11], 0),
        (WINDOW, [11, 14], 2),  # trend up (10 to 11), up 3.5, down 0.5
        (WINDOW, [11, 8], 1),  # trend up, down 3.5, up 0.5
        ([11, 10, 11, 10], [10, 7], 2),  # trend down, down
        ([11, 10, 11, 10], [10, 13], 1),  # trend down, up
    ],
)
def test_expansion_with_direction_by_hand(window, ahead, label):
    bars = bars_of(flat([*window, *ahead], 0.5))
    rule = recipe(label="expansion_direction")
    assert label_windows(bars, np.array([0]), rule).y.tolist() == [label]


# closes 100 102 100 102: changes .02, -.0196, .02; their standard deviation is s
CHANGES = np.array([102 / 100 - 1, 100 / 102 - 1, 102 / 100 - 1])
WIDTH = CHANGES.std() * np.sqrt(3)  # H = 3: about .0323, barriers near 98.7 and 105.3


@pytest.mark.parametrize(
    ("highs", "lows", "label", "ends_after"),
    [
        ([103, 103, 103], [101, 101, 101], 0, 3),
        ([103, 106, 103], [101, 101, 101], 2, 2),
        ([106, 103, 103], [101, 98, 98], 2, 1),
        ([103, 103, 103], [101, 101, 98], 1, 3),
        ([103, 106, 103], [101, 98, 101], 1, 2),  # one bar reaches both: lower
        ([105.25, 103, 103], [101, 101, 101], 0, 3),  # just below the barrier of 105.29
        ([105.30, 103, 103], [101, 101, 101], 2, 1),
    ],
)
def test_triple_barrier_by_hand(highs, lows, label, ends_after):
    assert pytest.approx(105.29, abs=0.01) == 102 * (1 + WIDTH)
    ahead = [[102, h, low, 102] for h, low in zip(highs, lows, strict=True)]
    bars = bars_of(np.vstack([flat([100, 102, 100, 102], 0.5), ahead]))
    labels = label_windows(bars, np.array([0]), recipe(label="triple_barrier", horizon_bars=3))
    assert labels.y.tolist() == [label]
    assert labels.end.tolist() == [3 + ends_after]


def test_wider_barriers_are_touched_later_or_never():
    bars = bars_of(walk(600))
    starts = np.arange(0, 500, 5)
    ends, touched = [], []
    for width in (0.25, 1.0, 4.0):
        rule = recipe(label="triple_barrier", window_bars=40, horizon_bars=20, barrier_width=width)
        labels = label_windows(bars, starts, rule)
        ends.append(labels.end)
        touched.append(int((labels.y > 0).sum()))
    assert (ends[0] <= ends[1]).all()
    assert (ends[1] <= ends[2]).all()
    assert touched[0] > touched[1] > touched[2]


def test_a_still_window_has_no_barriers():
    bars = bars_of(np.vstack([flat([100] * 4), [[100, 150, 50, 100]] * 3]))
    labels = label_windows(bars, np.array([0]), recipe(label="triple_barrier", horizon_bars=3))
    assert labels.y.tolist() == [0]


@pytest.mark.parametrize("rule", ["expansion", "expansion_direction", "triple_barrier"])
def test_a_label_looks_at_its_own_window_and_horizon_only(rule):
    bars = bars_of(walk(300))
    starts = np.arange(0, 200, 7)
    settings = recipe(label=rule, window_bars=20, horizon_bars=5)
    before = label_windows(bars, starts, settings)
    for row, start in enumerate(starts[:12]):
        changed = np.array(bars.ohlc)
        changed[:start] *= 3.0
        changed[before.end[row] + 1 :] *= 0.5
        again = label_windows(bars_of(changed), starts, settings)
        assert again.y[row] == before.y[row]
        assert again.end[row] == before.end[row]


def test_labels_do_not_depend_on_how_many_are_made_at_once():
    bars = bars_of(walk(9000))
    starts = np.arange(8900)
    rule = recipe(window_bars=20, horizon_bars=5)
    whole = label_windows(bars, starts, rule).y
    assert np.array_equal(whole[8150:8250], label_windows(bars, starts[8150:8250], rule).y)


def own(tmp_path, text: str, **values):
    (tmp_path / "mine.csv").write_text(text)
    settings = recipe(label="file", label_file="mine.csv", class_names=["no", "yes"], **values)
    return settings, tmp_path / "mine.csv"


def test_labels_by_file_find_their_windows(tmp_path):
    text = "last_bar,label\n2020-01-01 10:00:00,1\n2020-01-01 05:00:00,0\n"
    settings, path = own(tmp_path, text)
    starts, labels = place_labels(
        bars_of(walk(30)), settings, read_label_file(path, settings, "UTC")
    )
    assert starts.tolist() == [2, 7]  # bars 5 and 10 are the last of four
    assert labels.y.tolist() == [0, 1]
    assert labels.end.tolist() == [7, 12]  # two bars on


def test_labels_by_file_may_state_their_own_end(tmp_path):
    text = "last_bar,label,label_end\n2020-01-01 05:00:00Z,0,2020-01-01 09:00:00Z\n"
    settings, path = own(tmp_path, text)
    _, labels = place_labels(bars_of(walk(30)), settings, read_label_file(path, settings, "UTC"))
    assert labels.end.tolist() == [9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,label\n2020-01-01 05:00:00,0\n", "no column last_bar"),
        ("last_bar,label\n2020-01-01 05:00:00,\n", "label is empty in row 0"),
        ("last_bar,label\n2020-01-01 05:00:00,0.5\n", "label '0.5' in row 0 is no class"),
        ("last_bar,label\n2020-01-01 05:00:00,maybe\n", "all of them names .no, yes."),
        (
            "last_bar,label\n2020-01-01 05:00:00,yes\n2020-01-01 06:00:00,1\n",
            "label '1' in row 1 is no class",
        ),
        ("last_bar,label\nnever,0\n", "last_bar: time 'never' is in no form"),
        ("last_bar,label\n31.02.2020 05:00,0\n", "does not exist"),
        ("last_bar,label\n1,0\n2,1\n", "row numbers"),
        (
            "last_bar,label,label_end\n2020-01-01 05:00:00,1,2020-01-01 07:00:00Z\n"
            "2020-01-01 06:00:00,1,2020-01-01 08:00:00\n",
            "label_end: time .* is not written as|label_end: time .* does not exist or is not",
        ),
        (
            "last_bar,label\n2020-01-01 05:00:00,0\n2020-01-01 05:00:00,1\n",
            "names the window .* twice",
        ),
        ("last_bar,label\n2020-01-01 05:30:00,0\n", "2020-01-01T05:30.* is no bar of walk"),
        ("last_bar,label\n2021-01-01 05:00:00,0\n", "is no bar of walk"),
        ("last_bar,label\n2020-01-01 02:00:00,0\n", "begins before the first bar"),
        ("last_bar,label\n2020-01-02 04:00:00,0\n", "looks beyond the last bar"),
        ("last_bar,label\n2020-01-01 05:00:00,2\n", "class outside 0 to 1"),
        ("last_bar,label\n2020-01-01 05:00:00,-1\n", "class outside 0 to 1"),
        (
            "last_bar,label,label_end\n2020-01-01 05:00:00,1,2020-01-01 04:00:00\n",
            "ends before the window does",
        ),
    ],
)
def test_label_files_are_refused_with_the_window_named(tmp_path, text, message):
    settings, path = own(tmp_path, text)
    with pytest.raises(DataError, match=message):
        place_labels(bars_of(walk(30)), settings, read_label_file(path, settings, "UTC"))


def test_labels_may_be_the_names_of_their_classes(tmp_path):
    text = "last_bar,label\n2020-01-01 10:00:00,yes\n2020-01-01 05:00:00,no\n"
    settings, path = own(tmp_path, text)
    assert read_label_file(path, settings, "UTC").y.tolist() == [0, 1]
    names = pa.array(["yes", "no"]).dictionary_encode()
    times = pa.array(hours(2), pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"last_bar": times, "label": names}), tmp_path / "l.parquet")
    assert read_label_file(tmp_path / "l.parquet", settings, None).y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("time", "zone", "said", "expected"),
    [
        ("2020-01-01 05:00:00", "America/New_York", None, "2020-01-01T10:00"),
        ("2020-01-01 05:00:00", "America/New_York", "Asia/Tokyo", "2019-12-31T20:00"),
        ("2020-01-01 05:00:00", None, "UTC", "2020-01-01T05:00"),
        ("2020-01-01 05:00:00+02", "America/New_York", None, "2020-01-01T03:00"),
        ("1577854800", "America/New_York", None, "2020-01-01T05:00"),
        ("01.01.2020 05:00", "Europe/Berlin", None, "2020-01-01T04:00"),
    ],
)
def test_times_of_labels_are_in_the_zone_of_their_bars_unless_they_say_another(
    tmp_path, time, zone, said, expected
):
    settings, path = own(tmp_path, f"last_bar,label\n{time},1\n", label_timezone=said)
    assert read_label_file(path, settings, zone).last_bar == np.datetime64(expected)


def test_times_of_labels_whose_zone_nobody_knows_are_refused(tmp_path):
    settings, path = own(tmp_path, "last_bar,label\n2020-01-01 05:00:00,1\n")
    with pytest.raises(DataError, match=r"name no zone. Write them with Z .* label_timezone: UTC"):
        read_label_file(path, settings, None)
    pq.write_table(pa.table({"last_bar": hours(2), "label": [0, 1]}), tmp_path / "l.parquet")
    with pytest.raises(DataError, match="name no zone"):
        read_label_file(tmp_path / "l.parquet", settings, None)
    settings, path = own(
        tmp_path, "last_bar,label\n2020-01-01 05:00:00Z,1\n", label_timezone="Asia/Tokyo"
    )
    with pytest.raises(DataError, match="label_timezone Asia/Tokyo is given, but the times state"):
        read_label_file(path, settings, None)


def test_an_absent_label_file_names_those_there(tmp_path):
    settings, _ = own(tmp_path, "last_bar,label\n")
    with pytest.raises(DataError, match=r"does not exist.*there: mine.csv"):
        read_label_file(tmp_path / "other.csv", settings, None)


def test_a_rule_is_needed_to_label():
    with pytest.raises(DataError, match="label 'none' is not a rule"):
        label_windows(bars_of(walk(9)), np.array([0]), recipe(label="none", horizon_bars=0))


def test_times_of_the_kit_are_hourly():
    assert str(hours(3)[2]) == "2020-01-01T02:00:00.000000"


def test_range_against_its_expectation_on_a_flat_window_by_hand():
    """No volatility, so any range is wider; of log ranges .02 a bar the limit is sqrt formula."""
    recipe = WindowRecipe(source="x", window_bars=4, horizon_bars=2, label="expansion_expected")
    high, low = np.exp(0.01), np.exp(-0.01)
    rows = [[1.0, high, low, 1.0]] * 4
    variance = 0.5 * 0.02**2  # Garman and Klass, open equal to close
    limit = np.sqrt(8 / np.pi) * np.sqrt(variance * 2)
    for factor, label in ((0.99, 0), (1.01, 1)):
        ahead = [[1.0, np.exp(limit * factor), 1.0, 1.0]] * 2
        bars = Bars(
            name="x",
            time=np.datetime64("2020-01-01", "us") + np.arange(6) * 3_600_000_000,
            ohlc=np.array(rows + ahead),
            sha256="",
        )
        assert label_windows(bars, np.array([0]), recipe).y.tolist() == [label]


def test_range_against_stretches_of_the_past_by_hand():
    """Past ranges of 1 to 6 (logs, one bar each): median 3.5; thirds at 2.67 and 4.33."""
    logs = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.5, 0.5, 0.035]
    time = np.datetime64("2020-01-01", "us") + np.arange(9) * 3_600_000_000
    for ahead, past, rank in ((0.034, 0, 1), (0.036, 1, 1), (0.02, 0, 0), (0.05, 1, 2)):
        tops = np.exp(np.array([*logs[:-1], ahead]))
        one = np.ones(9)
        bars = Bars(name="x", time=time, ohlc=np.column_stack([one, tops, one, one]), sha256="")
        for label, y in (("expansion_past", past), ("expansion_rank", rank)):
            recipe = WindowRecipe(
                source="x", window_bars=2, horizon_bars=1, past_bars=6, label=label
            )
            assert window_starts(bars, recipe).tolist() == [6]
            assert label_windows(bars, np.array([6]), recipe).y.tolist() == [y]
