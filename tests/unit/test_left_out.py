"""What is left out is counted where a user looks; nothing is stored that verify would refuse."""

from __future__ import annotations

import html
import json
from dataclasses import replace

import numpy as np
import pytest
from data_kit import RECIPE, SET, SPLIT, bars_of, hours, split_recipe, walk, write_bars

from moola.config.data import WindowRecipe
from moola.data.left_out import LeftOut
from moola.data.need import bars_needed, windows_needed
from moola.data.store.data_store import DataStore
from moola.data.store.review import describe
from moola.data.windows import choose_starts
from moola.errors import AuditError, DataError

TINY = WindowRecipe(source="walk", window_bars=4, step_bars=1, horizon_bars=2)


def gapped(num: int = 40, *, at: int = 20, block: bool = True):
    """Bars with a day without any before bar `at`, and bars 5 to 7 again at 12."""
    ohlc = walk(num)
    if block:
        ohlc[12:15] = ohlc[5:8]
    time = np.concatenate([hours(at), hours(num - at, "2020-01-05T00")])
    return bars_of(ohlc, time=time)


def test_every_window_left_out_counts_once_under_its_first_reason():
    starts, left_out = choose_starts(gapped(), replace(TINY, end="2020-01-05T15:00"))
    # 35 bars before the end: 30 windows of 6. Bars 5..7 and 12..14 twice: starts 0..7 and 7..14;
    # the gap before bar 20: starts 15..19
    assert left_out.to_dict() == {"possible": 30, "repeated bars": 15, "gaps": 5}
    assert starts.tolist() == list(range(20, 30))
    assert left_out.words == "10 of 30 windows; left out: 15 repeated bars, 5 gaps"
    assert "67%" in str(left_out.warning)
    assert "exclude_repeated: false; cross_gaps: true" in str(left_out.warning)
    assert LeftOut.from_dict(left_out.to_dict()).words == left_out.words
    assert LeftOut(possible=10, reasons={"gaps": 1}).warning is None
    keeping = replace(TINY, exclude_repeated=False, cross_gaps=True)
    assert choose_starts(gapped(), keeping)[1].words == "35 of 35 windows"


@pytest.mark.parametrize(
    ("bars", "recipe", "message"),
    [
        (bars_of(walk(5)), TINY, r"walk \(5 bars\); expected 6 bars or more: 4 of the window, 2"),
        (gapped(), replace(TINY, end="2020-01-01T04:00"), "of which 4 lie between start and end"),
        (gapped(8, at=4, block=False), TINY, r"all 3 are left out for 3 gaps.*: cross_gaps: true"),
        (
            bars_of(np.tile(walk(3), (3, 1))), TINY,
            r"all 4 are left out for 4 repeated bars.*: exclude_repeated: false",
        ),
    ],
)  # fmt: skip
def test_the_message_names_the_cause_that_is_the_cause(bars, recipe, message):
    with pytest.raises(DataError, match=message) as caught:
        choose_starts(bars, recipe)
    for other in {"gaps", "repeated"} - {w for w in ("gaps", "repeated") if w in message}:
        assert other not in str(caught.value)


def test_the_counts_stand_in_meta_manifest_and_what_is_shown(tmp_path):
    write_bars(tmp_path, gapped(200, at=60))
    registry = DataStore(tmp_path)
    made = registry.build_set(SET, replace(RECIPE, step_bars=1))
    counts = made.left_out.to_dict()
    assert counts["possible"] == 200 - 15 + 1
    assert counts["possible"] - len(made) == counts["repeated bars"] + counts["gaps"] > 0
    assert made.meta["left_out"] == made.manifest["left_out"] == counts
    assert describe(registry, SET)["windows"] == made.left_out.words
    assert made.left_out.words in str(describe(registry))
    names = [c.name for c in registry.lineage(made) if c.passed]
    assert "the windows left out are counted right" in names


def test_a_set_of_which_nothing_is_left_out_has_the_meta_it_always_had(tmp_path):
    write_bars(tmp_path, bars_of(walk(200)))
    made = DataStore(tmp_path).build_set(SET, RECIPE)
    assert "left_out" not in made.meta
    assert made.left_out.words == "62 of 62 windows"


@pytest.mark.parametrize("strategy", ["forward_chaining", "walk_forward"])
@pytest.mark.parametrize("step", [1, 3, 20])
def test_the_fewest_bars_are_enough_and_one_less_is_not(tmp_path, strategy, step):
    recipe = replace(RECIPE, step_bars=step)
    split = split_recipe(strategy=strategy, num_folds=2)
    needed = bars_needed(recipe, [split])
    assert needed == 15 + (windows_needed(recipe, split) - 1) * step
    write_bars(tmp_path, bars_of(walk(needed)))
    registry = DataStore(tmp_path)
    registry.refuse_too_few({SET: recipe}, {"s": split})
    write_bars(tmp_path, bars_of(walk(needed - 1)))
    with pytest.raises(DataError, match=rf"walk has .* under split s; expected {needed:,} or more"):
        registry.refuse_too_few({SET: recipe}, {"s": split})
    assert not registry.has_set(SET)


def one_class(tmp_path) -> DataStore:
    """A registry with a set whose later windows are all of one class."""
    write_bars(tmp_path, bars_of(walk(400)))
    (tmp_path / "labels").mkdir()
    rows = [f"{t}Z,{k % 2 if k < 60 else 0}" for k, t in
            enumerate(hours(400).astype("datetime64[s]")[20:380:2])]  # fmt: skip
    (tmp_path / "labels" / "mine.csv").write_text("last_bar,label\n" + "\n".join(rows))
    recipe = replace(RECIPE, label="file", label_file="mine.csv", class_names=("a", "b"))
    registry = DataStore(tmp_path)
    registry.build_set(SET, recipe)
    return registry


@pytest.mark.parametrize("strategy", ["forward_chaining", "walk_forward"])
def test_a_split_that_verify_would_refuse_is_not_stored(tmp_path, strategy):
    registry = one_class(tmp_path)
    with pytest.raises(AuditError, match="every class in every part: val lacks class 1"):
        registry.build_split("s", split_recipe(strategy=strategy, num_folds=3))
    assert registry.names() == [SET]


def test_another_recipe_is_told_apart_by_its_fields(tmp_path):
    write_bars(tmp_path, bars_of(walk(200)))
    registry = DataStore(tmp_path)
    registry.build_set(SET, RECIPE)
    with pytest.raises(DataError, match=r"step_bars 3, asked 5; gap_bars 1.5, asked 2"):
        registry.build_set(SET, replace(RECIPE, step_bars=5, gap_bars=2.0))


def test_only_what_nothing_needs_is_removed(tmp_path):
    write_bars(tmp_path, bars_of(walk(400)))
    registry = DataStore(tmp_path)
    registry.build_set(SET, RECIPE)
    registry.build_split("s", SPLIT)
    with pytest.raises(DataError, match="labeled_windows/v1 is needed by splits/s"):
        registry.remove(SET)
    registry.remove("splits/s")
    registry.remove(SET)
    assert registry.names() == []
    assert list((tmp_path / "labeled_windows").iterdir()) == []
    for name in (SET, "splits/s"):
        with pytest.raises(DataError, match="does not exist"):
            registry.remove(name)


@pytest.mark.medium
def test_what_a_run_was_given_is_not_removed(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    from moola.errors import Refused
    from moola.steps.data import remove

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    root = tmp_path / "data"
    write_bars(root, bars_of(walk(400)))
    registry = DataStore(root)
    registry.build_set(SET, RECIPE)
    registry.build_split("s", SPLIT)
    client = MlflowClient(uri)
    run = client.create_run("0")
    for key, value in {"labeled": SET, "split": "splits/s.json"}.items():
        client.log_param(run.info.run_id, key, value)
    for name in ("splits/s", SET):
        with pytest.raises(Refused, match=f"{name} is referred to by run {run.info.run_id}"):
            remove(name, data_root=str(root), tracking_uri=uri)
    assert registry.names() == [SET, "splits/s"]
    client.delete_run(run.info.run_id)  # it can be brought back: still a reference
    with pytest.raises(Refused, match="referred to by run"):
        remove("splits/s", data_root=str(root), tracking_uri=uri)
    registry.build_split("other", split_recipe(embargo_bars=2))
    remove("splits/other", data_root=str(root), tracking_uri=uri)
    assert registry.names() == [SET, "splits/s"]


@pytest.mark.medium
def test_the_quality_report_counts_the_windows_of_the_usual_recipe(tmp_path):
    from ingest_kit import csv_of, put

    from moola.data.ingest import ingest

    bars = gapped(400, at=90)
    done = ingest(put(tmp_path, csv_of(bars)), "x", tmp_path / "bars")
    words = json.loads(done.report_path.read_text())["facts"]["windows"]
    assert words.startswith("34 of 49 windows; left out: 3 repeated bars, 12 gaps ")
    assert "(105 bars and 6 ahead, every 6). 31% of the windows are left out" in words
    assert html.escape(words) in done.page_path.read_text()
