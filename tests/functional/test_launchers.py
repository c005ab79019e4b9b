"""Every launcher gives the same results; what a worker's death costs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moola.config.data import SplitRecipe
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, DataError, LauncherError
from moola.training.crossval import TASK_LOG, Trainee, walk_forward_predictions
from moola.training.launchers import LocalLauncher, RayLauncher, open_launcher


def square(shared: dict[str, Any], task: int) -> int:
    """What a worker runs: may die once, die always, or refuse."""
    once = shared.get("kill_once")
    if once is not None and task == 2 and not Path(once).exists():
        Path(once).write_text("dead")
        os.kill(os.getpid(), signal.SIGKILL)
    if shared.get("kill_always") and task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if shared.get("refuse") and task == 2:
        raise DataError("task 2 is wrong", limit="a right one")
    return task * task + torch.get_num_threads() - 1


def results(launcher: Any, shared: dict[str, Any], tasks: range) -> list[int]:
    found = {done.index: done.result for done in launcher.map(square, shared, tasks)}
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_local_tasks_run_in_one_thread_each_in_any_order(jobs: int) -> None:
    before = torch.get_num_threads()
    found = list(LocalLauncher(jobs=jobs).map(square, {}, range(5)))
    assert sorted((d.index, d.result) for d in found) == [(i, i * i) for i in range(5)]
    assert all(d.seconds >= 0 and d.host for d in found)
    assert (jobs == 1) == (found[0].pid == os.getpid())
    assert torch.get_num_threads() == before
    assert results(LocalLauncher(jobs=jobs), {}, range(0)) == []


def test_a_refusal_inside_a_task_comes_back_as_itself() -> None:
    with pytest.raises(DataError, match=r"task 2 is wrong; expected a right one\.$"):
        results(LocalLauncher(jobs=2), {"refuse": True}, range(4))


def test_a_local_worker_that_dies_is_one_readable_error() -> None:
    with pytest.raises(LauncherError, match=r"a worker process died.*run the same command again"):
        results(LocalLauncher(jobs=2), {"kill_always": True}, range(4))


def test_options_of_the_wrong_launcher_are_refused() -> None:
    assert open_launcher("local", jobs=0) == LocalLauncher(jobs=1)
    assert open_launcher("ray", jobs=2, address="h:1") == RayLauncher(address="h:1", jobs=2)
    with pytest.raises(ConfigError, match="launcher is 'slurm'"):
        open_launcher("slurm")
    with pytest.raises(ConfigError, match="options of Ray"):
        open_launcher("local", address="auto")
    with pytest.raises(ConfigError, match="jobs is -1"):
        open_launcher("ray", jobs=-1)
    with pytest.raises(ConfigError, match="gpus_per_task"):
        RayLauncher(gpus_per_task=float("nan"))


def test_a_cluster_that_is_not_there_is_one_readable_error() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(LauncherError, match=r"Ray at 127\.0\.0\.1:1 cannot be used"):
        results(RayLauncher(address="127.0.0.1:1"), {}, range(2))
    with pytest.raises(LauncherError, match="Ray at nowhere cannot be used: it is not auto"):
        results(RayLauncher(address="nowhere"), {}, range(2))


@pytest.fixture(scope="module")
def ray_here() -> Any:
    """One Ray on this machine for the tests below: a start takes seconds."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import `square`
        with RayLauncher(jobs=2).session():
            yield ray


def test_ray_runs_again_what_a_killed_worker_held(ray_here: Any, tmp_path: Path) -> None:
    launcher = RayLauncher(jobs=2)
    dead = tmp_path / "dead"
    assert results(launcher, {"kill_once": str(dead)}, range(6)) == [0, 1, 4, 9, 16, 25]
    assert dead.exists()
    with pytest.raises(LauncherError, match="a Ray task was lost"):
        results(RayLauncher(jobs=2, retries=0), {"kill_always": True}, range(4))
    with pytest.raises(DataError, match=r"task 2 is wrong; expected a right one\.$"):
        results(launcher, {"refuse": True}, range(4))
    assert results(launcher, {}, range(0)) == []


def test_ray_fills_the_same_cache_byte_for_byte(ray_here: Any, tmp_path: Path) -> None:
    from data_kit import small_registry  # not above: a Ray worker imports this module

    registry = small_registry(tmp_path / "data")
    recipe = SplitRecipe(labeled="labeled_windows/v1", strategy="walk_forward", num_folds=2)
    folds: Any = registry.build_split("walk", recipe)
    labeled = registry.load_set("labeled_windows/v1")
    net = FinetuneConfig(preset="compact", epochs=2, patience=0, learning_rate=3e-3, device="cpu")
    trainees = {
        "net": Trainee(config=net, seeds=(1, 2)),
        "logreg": Trainee(config=FinetuneConfig(model="logreg"), seeds=(1,)),
    }

    def run(name: str, launcher: Any) -> dict[str, bytes]:
        cache = tmp_path / name
        found = walk_forward_predictions(
            trainees, labeled, folds, device="cpu", cache=cache, launcher=launcher
        )
        assert np.isfinite(found["net"].proba).all()
        assert len((cache / TASK_LOG).read_text().splitlines()) == 6
        return {p.name: p.read_bytes() for p in cache.glob("*.npz")}

    local = run("local", LocalLauncher())
    assert len(local) == 6
    assert run("ray", RayLauncher(jobs=2)) == local
