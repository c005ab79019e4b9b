"""`kill -9` of a set's build: a whole set stands afterwards, or none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress

import numpy as np
from data_kit import bars_of, walk, write_bars

from moola.config.data import WindowRecipe
from moola.data.store.data_store import DataStore

BUILD = """
import sys
from moola.config.data import WindowRecipe
from moola.data.store.data_store import DataStore
print("ready", flush=True)
recipe = WindowRecipe(source="walk", window_bars=60, step_bars=1, horizon_bars=6)
DataStore(sys.argv[1]).build_set("labeled_windows/big", recipe)
print("done", flush=True)
"""


def test_a_build_killed_at_any_moment_leaves_a_whole_set_or_none(tmp_path):
    write_bars(tmp_path, bars_of(walk(30_000)))
    folder = tmp_path / "labeled_windows" / "big"
    rng = np.random.default_rng(3)
    outcomes = []
    for attempt in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        delay = 0.0 if attempt == 0 else float(rng.uniform(0.0, 0.9))
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay)
        process.kill()
        process.wait(timeout=20)
        process.stdout.close()
        if folder.exists():
            assert len(DataStore(tmp_path).load_set("labeled_windows/big")) == 29_935
        outcomes.append(folder.exists())
    assert not outcomes[0]
    recipe = WindowRecipe(source="walk", window_bars=60, step_bars=1, horizon_bars=6)
    assert len(DataStore(tmp_path).build_set("labeled_windows/big", recipe)) == 29_935
    assert DataStore(tmp_path).names() == ["labeled_windows/big"]
