"""The quick start, word by word: every block of the page, in its order, in an empty folder.

Two words are replaced: the port of the served model, and `bars.csv`, which is written from the
EURUSD bars that ship with Moola.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from job_kit import mlflow_process

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
BARS = ROOT / "data" / "bars" / "eurusd_1h.parquet"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```|((?:^ {4}[^\n]+\n)+)", re.M | re.S)


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each block as (language, text); the indented ones, line by line, as ``sh``."""
    for language, fenced, indented in _BLOCK.findall(page.read_text()):
        if indented:
            yield from (("sh", line.strip()) for line in indented.splitlines())
        else:
            yield language, fenced


def run(command: str, folder: Path, store: str) -> str:
    """Run one command of the page and return what it printed; it must end with 0."""
    words = shlex.split(command)
    assert words[0] == "moola", command
    done = subprocess.run(
        [sys.executable, "-m", *words],
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


def ask(url: str, X: np.ndarray) -> list[dict]:
    """Ask a served model for predictions."""
    request = urllib.request.Request(
        f"{url}/invocations",
        json.dumps({"inputs": X.tolist()}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_the_quick_start_leads_from_a_csv_to_a_served_model(tmp_path: Path) -> None:
    pq.read_table(BARS).to_pandas().to_csv(tmp_path / "bars.csv", index=False)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    printed, served = {}, None
    for language, text in steps(PAGE):
        if language == "yaml":
            (tmp_path / "recipes.yaml").write_text(text)
        elif text.startswith("mlflow models serve"):
            served = text
        else:
            printed[" ".join(shlex.split(text)[:2])] = run(text, tmp_path, store)
    assert "in Production" in printed["moola promote"]
    assert "promotion" in printed["moola history"]
    assert (tmp_path / "audit.png").stat().st_size > 1000

    assert served is not None
    words = re.sub(r"-p \d+", "-p {port}", served.removeprefix("mlflow ")).split()
    X = np.load(tmp_path / "data" / "labeled_windows" / "mine" / "X_ohlc.npy")[-3:]
    with mlflow_process(*words, ready="/ping", MLFLOW_TRACKING_URI=store) as url:
        answers = ask(url, X)
    assert len(answers) == 3
    for answer in answers:
        total = answer["probability_consolidation"] + answer["probability_expansion"]
        assert total == pytest.approx(1)
