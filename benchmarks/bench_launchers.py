"""Measure `moola evaluate` on Ray: two workers against one, and one of them killed in the middle.

    python benchmarks/bench_launchers.py                 # about 8 minutes on 2 cores

Gates 0 to 2 of a `matched` candidate on EURUSD: 15 trainings of its own, 10 of the controls. Every
evaluation starts with an empty cache; the gate reports have to be equal but for their time. Beside
the time of each stands that of its trainings, added up over the workers: only they run side by
side. Exits with 1 if two workers are not 1.7 times as fast as one, or a report differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MIN_GAIN = 1.7
ONE, TWO = "ray, 1 worker", "ray, 2 workers"


def prepare(epochs: int) -> str:
    """Build the EURUSD set and register a candidate; return its version."""
    from moola.config.training import FinetuneConfig
    from moola.data.store.data_store import DataStore
    from moola.steps.finetune import finetune

    shutil.copytree(ROOT / "data" / "bars", "data/bars")
    DataStore("data").build()
    config = FinetuneConfig(
        preset="matched",
        labeled="labeled_windows/v2",
        split="splits/fwd_chain_v2_eurusd.json",
        epochs=epochs,
        patience=0,
        batch_size=64,
        device="cpu",
    )
    return str(finetune(config).version)


def report_of(run_id: str) -> dict[str, Any]:
    """Return a run's gate report without the moment it was made."""
    from mlflow.artifacts import load_dict
    from mlflow.tracking import MlflowClient

    uri = MlflowClient().get_run(run_id).info.artifact_uri
    report = dict(load_dict(f"{uri}/gate_report.json"))
    del report["created_at"]
    return report


def evaluate(version: str, launcher: Any, name: str, *, kill: bool = False) -> tuple[float, Any]:
    """Evaluate with an empty cache; return seconds and the report."""
    from moola.config.evaluation import EvaluateConfig
    from moola.steps.evaluate import evaluate as run

    cache = Path("cache") / name
    killer = threading.Thread(target=kill_a_worker, args=(cache,), daemon=True)
    start = time.perf_counter()
    if kill:
        killer.start()
    summary = run(
        version=version,
        config=EvaluateConfig(seeds=(17, 18, 19), gates=(0, 1, 2)),
        device="cpu",
        cache=cache,
        launcher=launcher,
    )
    seconds = time.perf_counter() - start
    if kill:
        killer.join(timeout=1)
    return seconds, report_of(summary.run_id)


def training_seconds(name: str) -> float:
    """Return the seconds of an evaluation's trainings, added up."""
    log = Path("cache") / name / "tasks.jsonl"
    return sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())


def kill_a_worker(cache: Path) -> None:
    """Once two trainings are done, kill -9 the worker of the last one, busy with another."""
    log = cache / "tasks.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        time.sleep(0.05)
    pid = json.loads(log.read_text().splitlines()[-1])["pid"]
    time.sleep(1.0)  # it has its next training by now
    os.kill(pid, signal.SIGKILL)
    print(f"killed worker {pid}", flush=True)


def main() -> int:
    """Measure, print one line an evaluation, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--no-local", action="store_true", help="Ray only.")
    options = parser.parse_args()
    from moola.training.launchers import LocalLauncher, RayLauncher

    runs: dict[str, tuple[Any, bool]] = {
        ONE: (RayLauncher(jobs=1), False),
        TWO: (RayLauncher(jobs=2), False),
        "ray, 2 workers, one killed": (RayLauncher(jobs=2), True),
    }
    if not options.no_local:
        runs["local, 2 processes"] = (LocalLauncher(jobs=2), False)
    seconds, reports = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        version = prepare(options.epochs)
        for name, (launcher, kill) in runs.items():
            seconds[name], reports[name] = evaluate(version, launcher, name, kill=kill)
            same = "the same report" if reports[name] == reports[ONE] else "ANOTHER REPORT"
            print(
                f"{name:<28}{seconds[name]:7.1f} s, trainings {training_seconds(name):6.1f} s  "
                f"{seconds[ONE] / seconds[name]:.2f} x  {same}",
                flush=True,
            )
        os.chdir("/")
    gain = seconds[ONE] / seconds[TWO]
    print(f"two workers: {gain:.2f} x, at least {MIN_GAIN}")
    return int(gain < MIN_GAIN or any(report != reports[ONE] for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
