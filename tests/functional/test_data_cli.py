"""`moola data` from a file of bars to a verified registry, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moola.cli.app import main

HEAD = "https://www.CryptoDataDownload.com\nDate,Symbol,Open,High,Low,Close,Volume BTC,Volume USD\n"
RECIPES = """
sets:
  labeled_windows/v1: {source: walk, window_bars: 12, step_bars: 3, horizon_bars: 3}
  unlabeled_windows/v1:
    {source: walk, window_bars: 12, step_bars: 1, label: none, horizon_bars: 0, end: "2020-01-15"}
splits:
  fwd: {labeled: labeled_windows/v1}
  wf: {labeled: labeled_windows/v1, strategy: walk_forward, num_folds: 3, train_blocks: 2}
"""
AUGMENTERS = """
import numpy as np

def rescale(X, rng):
    return X * rng.uniform(0.5, 2.0, (len(X), 1, 1)).astype(np.float32)

class Wider:
    def __init__(self, by=0.02):
        self.settings = {"by": by, "shape": "uniform"}
    def augment(self, X, rng):
        X = X.copy()
        X[..., 1] *= 1 + self.settings["by"] * rng.random(X.shape[:2], dtype=np.float32)
        return X
"""


SYNTH = ["synth", "x", "--split", "fwd", "--augmenter"]


def newest_first_csv(num: int = 900) -> str:
    rng = np.random.default_rng(0)
    volatility = np.exp(0.5 * np.sin(np.arange(num) / 17.0)) * 0.004
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1, num) * volatility))
    open_ = np.r_[100.0, close[:-1]]
    high = np.maximum(open_, close) * (1 + rng.uniform(0, 1, num) * volatility)
    low = np.minimum(open_, close) * (1 - rng.uniform(0, 1, num) * volatility)
    time = np.datetime64("2020-01-01T00", "s") + np.arange(num) * np.timedelta64(3600, "s")
    rows = [
        f"{str(t).replace('T', ' ')},BTCUSD,{o!r},{h!r},{lo!r},{c!r},1,2"
        for t, o, h, lo, c in zip(time, open_.tolist(), high.tolist(), low.tolist(),
                                  close.tolist(), strict=True)
    ]  # fmt: skip
    return HEAD + "\n".join(rows[::-1]) + "\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "bars.csv").write_text(newest_first_csv())
    (folder / "recipes.yaml").write_text(RECIPES)
    (folder / "my_augmenters.py").write_text(AUGMENTERS)
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    yield folder
    os.chdir(before)
    sys.path.remove(str(folder))


@pytest.fixture
def moola(work, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["data", *arguments])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def ok(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def test_the_whole_way_from_a_file_to_a_verified_registry(moola, work):
    quality = json.loads(ok(moola("ingest", "bars.csv", "--as", "walk", "--json")))
    assert quality["num_bars"] == 900
    assert quality["facts"]["order"] == "newest first"
    assert (work / "data" / "bars" / "walk.quality.html").is_file()

    digests = json.loads(ok(moola("build", "--recipes", "recipes.yaml", "--json")))
    assert set(digests) == {
        "labeled_windows/v1", "unlabeled_windows/v1", "splits/fwd", "splits/wf",
    }  # fmt: skip
    assert json.loads(ok(moola("build", "--recipes", "recipes.yaml", "--json"))) == digests

    made = json.loads(
        ok(moola("split", "rolling", "--labeled", "v1", "--strategy", "walk_forward",
                 "--folds", "4", "--train-blocks", "1", "--embargo-bars", "3", "--json"))
    )  # fmt: skip
    assert [p["split"] for p in made["parts"]] == [f"rolling/fold{k}" for k in (1, 2, 3, 4)]

    out = ok(moola("synth", "v1_rescale", "--split", "fwd", "--augmenter", "my_augmenters:rescale"))
    assert "look like real ones" in out

    verified = json.loads(ok(moola("verify", "--json")))
    assert verified == dict.fromkeys(
        ["labeled_windows/v1", "unlabeled_windows/v1", "synthetic_cache/v1_rescale",
         "splits/fwd", "splits/rolling", "splits/wf"]
    )  # fmt: skip
    listed = json.loads(ok(moola("show", "--json")))
    assert {row["name"] for row in listed["sets"]} == set(verified)


def test_show_tells_the_facts_of_each_kind(moola, work):
    assert json.loads(ok(moola("show", "labeled_windows/v1", "--json")))["num_windows"] == 296
    assert json.loads(ok(moola("show", "bars/walk", "--json")))["quality"]["gaps"] == 0
    assert json.loads(ok(moola("show", "synthetic_cache/v1_rescale", "--json")))["windows"] == 174
    text = ok(moola("show", "splits/fwd", "--picture", "audit.png"))
    assert "labeled_windows/v1" in text
    assert (work / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert "labeled_windows/v1" in ok(moola("show"))


def test_own_indices_are_taken_if_they_run_forward(moola, work):
    rows = {"train_indices": list(range(170)), "val_indices": list(range(170, 220)),
            "test_indices": list(range(220, 296))}  # fmt: skip
    (work / "mine.json").write_text(json.dumps(rows))
    made = json.loads(
        ok(moola("split", "mine", "--labeled", "v1", "--from", "mine.json", "--json"))
    )
    assert made["parts"] == [{"split": "mine", "train": 166, "val": 46, "test": 76, "purged": 8}]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["split", "r", "--strategy", "random"], 2, "leak the future into training"),
        (["split", "r", "--from", "random.json"], 1, "random or stratified indices"),
        (["split", "r", "--from", "named.json"], 2, "put future bars into training"),
        (["split", "r", "--from", "nothing.json"], 2, "cannot be read"),
        (["split", "../r"], 2, "split name is '../r'"),
        (["split", "fwd", "--val-fraction", "0.2"], 2, "exists with another content"),
        (["ingest", "nothing.csv", "--as", "x"], 2, "nothing.csv does not exist"),
        (["ingest", "bars.csv", "--as", "../x"], 2, "bare name"),
        (["ingest", "bars.csv", "--as", "x", "--repair", "magic"], 2, "repair is 'magic'"),
        (["build", "--recipes", "nothing.yaml"], 2, "nothing.yaml does not exist"),
        (["show", "labeled_windows/v9"], 2, "does not exist in data"),
        (["show", "labeled_windows/v1", "--picture", "x.png"], 2, "expected a split"),
        (["verify", "labeled_windows/v9"], 1, "1 of 1 must not be believed"),
        (["verify", "--data-root", "empty"], 2, "empty holds no set"),
        (["verify", "--data-root", "gopher://x"], 2, "cannot be opened"),
        ([*SYNTH, "my_augmenters:Wider"], 1, "smallest Holm"),
        ([*SYNTH, "no_such:x"], 2, "No module named"),
        ([*SYNTH, "my_augmenters:AUG"], 2, "cannot be used"),
        ([*SYNTH, "my_augmenters:np"], 2, "cannot be called"),
        (["synth", "x", "--split", "fwd", "--set", "oops"], 2, "name=value"),
        ([*SYNTH, "my_augmenters:Wider", "--set", "k=1"], 2, "unexpected keyword"),
    ],
)  # fmt: skip
def test_refusals_end_in_one_line_and_the_right_code(moola, work, arguments, code, message):
    order = np.random.default_rng(0).permutation(296)
    cuts = {"train": order[:170], "val": order[170:220], "test": order[220:]}
    rows = {f"{part}_indices": sorted(found.tolist()) for part, found in cuts.items()}
    (work / "random.json").write_text(json.dumps(rows))
    (work / "named.json").write_text(json.dumps({**rows, "strategy": "stratified"}))
    before = sorted(p for p in (work / "data").rglob("*"))
    found, _, err = moola(*arguments)
    assert found == code
    assert message in err
    assert err.startswith("moola: ")
    assert err.count("\n") == 1
    assert sorted(p for p in (work / "data").rglob("*")) == before


def test_verify_names_what_was_changed(moola, work):
    path = work / "data" / "labeled_windows" / "v1" / "y.npy"
    before = path.read_bytes()
    path.write_bytes(before[:-8] + bytes([1 - before[-8]]) + before[-7:])
    try:
        code, out, err = moola("verify", "labeled_windows/v1", "splits/fwd", "unlabeled_windows/v1")
    finally:
        path.write_bytes(before)
    assert code == 1
    assert "y.npy changed since it was built" in out
    assert "2 of 3 must not be believed: labeled_windows/v1, splits/fwd" in err


@pytest.mark.parametrize("command", ["ingest", "build", "split", "synth", "verify", "show"])
def test_every_command_shows_an_example(moola, command):
    assert "Example: moola data " + command in " ".join(ok(moola(command, "--help")).split())


def test_help_loads_neither_torch_nor_mlflow_nor_pyarrow():
    code = (
        "import sys\nfrom moola.cli.app import main\n"
        "try:\n    main(['data', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'mlflow', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout.splitlines()[-1] == "[]", run.stderr
