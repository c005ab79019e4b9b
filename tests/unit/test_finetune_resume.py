"""Fine-tuning interrupted: killed by `kill -9` and resumed to the same weights, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_kit import config, estimator, run, same_weights, windows, write_encoder

from moola.config.training import FinetuneConfig
from moola.errors import CheckpointError, ConfigError, ProofError
from moola.models.fitting.callbacks import FitState
from moola.models.fitting.resume import StateFile, find_state
from moola.models.weights.freeze import FreezeCallback
from moola.training import finetune as module
from moola.training.finetune import FinetuneResult, finetune, resume_path

pytestmark = pytest.mark.medium  # trains networks

_KILLED = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from finetune_kit import windows
from moola.training import finetune as module

def train(made, path, kill_in):
    class Freeze(module.FreezeCallback):
        batches = 0
        def on_gradients(self, state):
            self.batches += state.epoch == kill_in
            if self.batches == 2:
                os.kill(os.getpid(), signal.SIGKILL)
    module.FreezeCallback = Freeze
    module.finetune(made, *windows(), device="cpu", validation=windows(seed=8), state_path=path)

made = module.FinetuneConfig.from_mapping(json.loads(sys.argv[1]))
torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])  # imports what is slow, once
for epoch in (1, 3, 4):
    pid = os.fork()
    if not pid:
        train(made, Path(sys.argv[2]) / f"{epoch}.safetensors", epoch)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
print("all killed")
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[FinetuneConfig, Path]]:
    """Trainings killed in their second batch of epoch 1 (frozen), 3 (unfreezing) and 4."""
    folder = tmp_path_factory.mktemp("killed")
    encoder = write_encoder(folder / "e")
    made = config(encoder, unfreeze_after=3, epochs=6, patience=3, use_temporal_aug=True)
    arguments = [json.dumps(made.to_dict()), str(folder), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "all killed\n", done.stderr
    return {epoch: (made, folder / f"{epoch}.safetensors") for epoch in (1, 3, 4)}


@pytest.fixture(scope="module")
def whole(killed: dict[int, tuple[FinetuneConfig, Path]]) -> FinetuneResult:
    return one_thread(killed[1][0])


def one_thread(made: FinetuneConfig, **options: Any) -> FinetuneResult:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(made, validation=windows(seed=8), **options)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    killed: dict[int, tuple[FinetuneConfig, Path]], whole: FinetuneResult, epoch: int
) -> None:
    made, path = killed[epoch]
    again = one_thread(made, state_path=path, resume=True)
    assert again.resumed_at == epoch
    assert same_weights(again.model.net_, whole.model.net_)
    assert list(again.history) == list(whole.history)
    assert again.proof == whole.proof
    assert again.evolution is not None
    assert again.evolution.equals(whole.evolution)
    finished = one_thread(made, state_path=path, resume=True)  # nothing is left to train
    assert same_weights(finished.model.net_, whole.model.net_)
    assert finished.resumed_at == 6


def test_a_resumed_run_that_stays_frozen_is_refused(
    killed: dict[int, tuple[FinetuneConfig, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ForgetsPhase(FreezeCallback):
        """Counts epochs from the resumption."""

        def on_epoch_begin(self, state: FitState) -> None:
            epoch, state.epoch = state.epoch, state.epoch - (state.resumed_at or 0)
            super().on_epoch_begin(state)
            state.epoch = epoch

    made, path = killed[1][0], tmp_path / "s.safetensors"
    path.write_bytes(_state_of_epoch(2, made, tmp_path / "stopped.safetensors"))
    monkeypatch.setattr(module, "FreezeCallback", ForgetsPhase)
    with pytest.raises(ProofError, match=r"stayed frozen: encoder\.\S+ in epoch 4"):
        one_thread(made, state_path=path, resume=True)


def _state_of_epoch(epoch: int, made: FinetuneConfig, path: Path) -> bytes:
    """The state after an epoch, from a training that an error ends in the next."""

    class StopError(Exception):
        pass

    def stop(row: dict[str, Any], total: int) -> None:
        if row["epoch"] == epoch + 1:
            raise StopError

    with pytest.raises(StopError):
        one_thread(made, state_path=path, on_epoch=stop)
    return path.read_bytes()


def test_a_state_is_only_resumed_by_the_same_training(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    run(config(), state_path=path)
    for changes in ({"seed": 18}, {"epochs": 5}, {"dropout": 0.2}):
        with pytest.raises(ConfigError, match="is the state of another run") as caught:
            run(config(**changes), state_path=path, resume=True)
        assert "without --resume" in str(caught.value)
    X, y = windows()
    with pytest.raises(ConfigError, match="another run"):
        finetune(config(), X, 1 - y, device="cpu", state_path=path, resume=True)
    anew = run(config(seed=18), state_path=path)
    assert anew.resumed_at is None


def test_states_of_other_options_are_not_passed_over(tmp_path: Path) -> None:
    """Resumed with a changed option, a run would begin anew without a word."""
    mine, other = (resume_path(config(seed=seed), tmp_path) for seed in (17, 18))
    assert not find_state(mine)  # none at all: a first run may ask for --resume
    resume_path(config(model="simple_lstm"), tmp_path).touch()
    assert not find_state(mine)  # another model's
    other.touch()
    with pytest.raises(ConfigError, match=f"{other.name} is the state of another run") as caught:
        find_state(mine)
    assert f"expected {mine.name}, by these options. Resume with the options" in str(caught.value)
    resume_path(config(seed=19), tmp_path).touch()
    with pytest.raises(ConfigError, match="another run, as are 1 more beside it"):
        find_state(mine)
    mine.touch()
    assert find_state(mine)


def test_what_is_no_state_is_refused_and_an_absent_one_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    assert run(config(), state_path=path, resume=True).resumed_at is None
    path.write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="is not the state of a run"):
        run(config(), state_path=path, resume=True)


def test_an_estimator_resumes_by_itself(tmp_path: Path) -> None:
    X, y = windows()
    file = StateFile(path=tmp_path / "s.safetensors", identity="x", resume=True)
    estimator(n_epochs=3).fit(X, y, state_file=file)
    longer = estimator(n_epochs=5).fit(X, y, state_file=file)
    assert longer.resumed_at_ == 3
    assert same_weights(longer.net_, estimator(n_epochs=5).fit(X, y).net_)


def test_the_state_has_its_own_name_by_configuration(tmp_path: Path) -> None:
    first, other = resume_path(config(), tmp_path), resume_path(config(seed=18), tmp_path)
    assert first.parent == tmp_path
    assert first != other
    assert resume_path(config(device="auto"), tmp_path) == first
