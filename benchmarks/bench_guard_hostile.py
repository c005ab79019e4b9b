"""Measure what another user notices while somebody sends hostile promotions with large files.

On one guarded server a user logs metrics, one after the other, first alone and then while others
ask for Production of a version of 400 MiB: one half with evidence that is about another version,
the other half with signed evidence about a version whose files were exchanged since. The figure is
the 99th percentile of the time of a `log-metric`, during the promotions / alone.

    python benchmarks/bench_guard_hostile.py                        # 20 promotions, 400 MiB
    python benchmarks/bench_guard_hostile.py --promotions 4 --mib 32
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "functional"))
if TYPE_CHECKING:
    from guard_world import World

OWN, ATTACKERS = "Own", 2
LOGGED = 200  # times that are enough for a 99th percentile, and seconds in which to get them
SECONDS = 120
LIMIT = 5.0


def large_versions(world: World, mib: int) -> tuple[str, str]:
    """Make two large versions of one's own, with evidence that will not do, and return them."""
    from promotion_kit import MLMODEL

    client = world.client
    client.create_registered_model(OWN)
    experiment = client.create_experiment("own")
    runs = [client.create_run(experiment).info for _ in range(2)]
    places = [Path(world.server.artifacts) / world.place(run.artifact_uri) for run in runs]
    block = os.urandom(1 << 20)
    for place in places:
        (place / "model").mkdir(parents=True)
        (place / "model" / "MLmodel").write_text(MLMODEL.format(uuid="0" * 32))
    with (places[0] / "model" / "large.bin").open("wb") as file:
        for _ in range(mib):
            file.write(block)
    os.link(places[0] / "model" / "large.bin", places[1] / "model" / "large.bin")
    replayed, exchanged = (
        str(client.create_model_version(OWN, f"{run.artifact_uri}/model", run.run_id).version)
        for run in runs
    )
    world.prepare(replayed, at=OWN, look=False)
    about = {"name": OWN, "version": exchanged, "run_id": runs[1].run_id, "champion": None}
    world.prepare(exchanged, at=OWN, subject=about)
    return replayed, exchanged


def logging(world: World, until: Callable[[int], bool]) -> tuple[np.ndarray, int]:
    """Log metrics to a run of one's own until a count is enough.

    Returns the seconds of each and how many were not answered with success.
    """
    session, run_id = requests.Session(), world.client.create_run("0").info.run_id
    taken: list[float] = []
    num_failed = 0
    while not until(len(taken)):
        body = {"run_id": run_id, "key": "m", "value": 1.0, "timestamp": 1, "step": len(taken)}
        begin = time.perf_counter()
        answer = session.post(
            f"{world.server.url}/api/2.0/mlflow/runs/log-metric", json=body, timeout=600
        )
        taken.append(time.perf_counter() - begin)
        num_failed += not answer.ok
    return np.array(taken), num_failed


def alone(world: World, seconds: float) -> tuple[np.ndarray, int]:
    """Log for some time with nobody else there."""
    logging(world, lambda count: count > 50)
    end = time.monotonic() + seconds
    return logging(world, lambda _count: time.monotonic() > end)


def beside_promotions(
    world: World, versions: tuple[str, str], num_promotions: int
) -> tuple[np.ndarray, int, np.ndarray]:
    """Log while promotions are asked for; return what `logging` does and seconds of a promotion.

    Promotions go on until there were as many as asked for and the user has logged often enough, or
    waited long enough.
    """
    asked: list[float] = []
    logged_enough = threading.Event()
    end = time.monotonic() + SECONDS

    def ask_on() -> None:
        while len(asked) < num_promotions or not logged_enough.is_set():
            begin = time.perf_counter()
            ask(world, versions[len(asked) % 2])
            asked.append(time.perf_counter() - begin)

    def enough(count: int) -> bool:
        if count >= LOGGED or time.monotonic() > end:
            logged_enough.set()
        return all(attacker.done() for attacker in attackers)

    with ThreadPoolExecutor() as pool:
        attackers = [pool.submit(ask_on) for _ in range(ATTACKERS)]
        logged, num_failed = logging(world, enough)
    for attacker in attackers:
        attacker.result()
    return logged, num_failed, np.array(asked)


def ask(world: World, version: str) -> None:
    """Ask for Production of a large version; it has to be refused."""
    body = {"name": OWN, "version": version, "stage": "Production"}
    answer = requests.post(
        f"{world.server.url}/api/2.0/mlflow/model-versions/transition-stage",
        json=body | {"archive_existing_versions": False},
        timeout=600,
    )
    if answer.status_code not in (403, 429) or "is not a model" in answer.text:
        raise SystemExit(f"a hostile promotion was answered {answer.status_code} {answer.text}")


def main() -> None:
    """Measure and print the times and their ratio."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--promotions", type=int, default=20)
    arguments.add_argument("--mib", type=int, default=400)
    arguments.add_argument("--quiet-seconds", type=float, default=20)
    given = arguments.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    from guard_world import guarded_world
    from mlflow import MlflowClient

    folder = Path(tempfile.mkdtemp(prefix="moola-bench-hostile-"))
    try:
        MlflowClient(f"sqlite:///{folder}/template.db").search_experiments()
        (folder / "server").mkdir()
        with guarded_world(folder / "server", folder / "template.db") as world:
            versions = large_versions(world, given.mib)
            quiet, _ = alone(world, given.quiet_seconds)
            during, num_failed, asked = beside_promotions(world, versions, given.promotions)
            again, _ = alone(world, given.quiet_seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(asked)} hostile promotions of {given.mib} MiB, {ATTACKERS} at a time:")
    print(f"each answered after {np.median(asked):.2f} s (median), {asked.max():.2f} s at most")
    both = np.concatenate([quiet, again])
    for name, taken in {"alone": both, "beside them": during}.items():
        median, high = 1e3 * np.quantile(taken, [0.5, 0.99])
        print(
            f"log-metric {name:<12} n={len(taken):<6} median {median:8.1f} ms   "
            f"p99 {high:9.1f} ms   most {1e3 * taken.max():9.1f} ms"
        )
    print(f"log-metric failed beside them: {num_failed} of {len(during)}")
    ratio = np.quantile(during, 0.99) / np.quantile(both, 0.99)
    print(f"p99 beside them / alone: {ratio:.1f} (at most {LIMIT:.0f})")


if __name__ == "__main__":
    sys.exit(main())
