"""Fine-tuning as a whole: encoder in, schedule proven; killed and resumed; the forensic report."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import encoder_tensors, estimator, prefixed, same_weights, windows

from moola.config.training import FinetuneConfig
from moola.errors import AuditError, CheckpointError, ConfigError, ProofError
from moola.models.callbacks import FitState
from moola.models.checkpoint import save_checkpoint
from moola.models.fit_resume import StateFile
from moola.training import finetune as module
from moola.training.finetune import (
    FinetuneResult,
    build_model,
    early_stopping_rows,
    epoch_line,
    finetune,
    resume_path,
    schedule_of,
)
from moola.training.freeze import FreezeCallback

CORPUS = {
    "name": "unlabeled_windows/v1",
    "sha256": "0" * 64,
    "source": "walk",
    "source_sha256": "0" * 64,
    "first_bar": "2019-01-01T00:00:00.000000",
    "last_bar": "2019-06-01T00:00:00.000000",
}


def write_encoder(folder: Path, *, num_layers: int = 1, corpus: Any = CORPUS) -> Path:
    tensors = prefixed(encoder_tensors(num_layers=num_layers, hidden=32), "encoder.")
    save_checkpoint(folder, tensors, {"corpus": corpus} if corpus else {})
    return folder


def config(encoder: Path | None = None, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "preset": "compact",
        "pretrained_encoder": str(encoder) if encoder else None,
        "unfreeze_after": 2,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "patience": 0,
        "device": "cpu",
    }
    return FinetuneConfig(**{**values, **changes})


def run(made: FinetuneConfig, **options: Any) -> FinetuneResult:
    X, y = windows()
    return finetune(made, X, y, device="cpu", **options)


def encoder_change(result: FinetuneResult, encoder: Path) -> float:
    """Largest distance of the trained encoder from the checkpoint."""
    from moola.models.checkpoint import read_checkpoint

    own = result.model.net_.state_dict()
    return max(float((own[k] - v).abs().max()) for k, v in read_checkpoint(encoder).tensors.items())


@pytest.mark.parametrize(
    ("freeze", "phases", "frozen_tensors"),
    [
        ("none", (), [0, 0, 0, 0]),
        ("frozen", (), [8, 8, 8, 8]),
        ("two_phase", (), [8, 8, 0, 0]),
        ("gradual", (), [8, 8, 0, 0]),
        ("phases", (3, 1), [8, 8, 8, 0]),
    ],
)
def test_every_schedule_is_carried_out_and_proven(
    tmp_path: Path, freeze: str, phases: tuple[int, ...], frozen_tensors: list[int]
) -> None:
    encoder = write_encoder(tmp_path / "e")
    seen: list[str] = []
    result = run(
        config(encoder, freeze=freeze, phases=phases),
        on_epoch=lambda row, total: seen.append(epoch_line(row, total)),
    )
    assert result.proof is not None
    assert result.load_report is not None
    assert result.evolution is not None
    assert result.proof["proven"], result.proof["reasons"]
    assert result.load_report["num_matched"] == 8
    rows = [r for r in result.evolution.to_pylist() if r["part"] == "encoder"]
    counted = [sum(r["epoch"] == e and not r["requires_grad"] for r in rows) for e in range(4)]
    assert counted == frozen_tensors
    assert (encoder_change(result, encoder) == 0.0) == (freeze == "frozen")
    assert seen[3].startswith("[Epoch 4/4] Train loss=")
    assert "Grad norm (encoder/head)=0.00/" in seen[0] or freeze == "none"
    assert result.resumed_at is None


def test_from_scratch_there_is_no_report_and_no_frozen_epoch() -> None:
    result = run(config())
    assert result.load_report is None
    assert result.proof is not None
    assert result.proof["schedule"] == "none"
    assert result.proof["proven"]


def test_early_stopping_uses_validation_only_with_patience(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "e")
    held = windows(seed=8)
    stopped = run(config(encoder, patience=1, epochs=12), validation=held)
    assert stopped.proof is not None
    assert stopped.proof["kept_epoch"] >= 2
    assert "val_loss" in stopped.history[0]
    assert "val_loss" not in run(config(encoder), validation=held).history[0]


def test_an_encoder_of_another_depth_is_refused_with_the_number_of_layers(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "e", num_layers=2)
    with pytest.raises(CheckpointError, match=r"takes 8 of the 16 .*50.0%.*use num_layers=2"):
        run(config(encoder))


def test_an_encoder_that_does_not_state_its_corpus_is_refused(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "e", corpus=None)
    with pytest.raises(AuditError, match="does not state the corpus"):
        run(config(encoder))


def test_a_layer_the_encoder_does_not_bring_trains_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.PRESETS, "compact", {"hidden_size": 32, "num_layers": 2})
    encoder = write_encoder(tmp_path / "e", num_layers=1)
    result = run(config(encoder, freeze="frozen", min_match_ratio=0.5))
    assert result.proof is not None
    assert result.evolution is not None
    assert result.proof["proven"]
    rows = [r for r in result.evolution.to_pylist() if r["part"] == "encoder"]
    assert {r["tensor"] for r in rows if r["requires_grad"]} == {
        n
        for n, _ in result.model.net_.named_parameters()
        if n.startswith("encoder.") and "_l1" in n
    }


# --- the known failure: weights loaded, frozen for all epochs, no better than without them


class OldSemantics(FreezeCallback):
    """Freezes by default; unfreezes `if unfreeze_after > 0 and epoch == unfreeze_after`."""

    unfreeze_after = 0

    def on_epoch_begin(self, state: FitState) -> None:
        if self.unfreeze_after > 0 and state.epoch == self.unfreeze_after:
            state.net.encoder.requires_grad_(True)
        elif state.epoch == 0:
            state.net.encoder.requires_grad_(False)
        base = self._base[0][1]
        state.optimizer.param_groups[0]["params"] = [p for p in base if p.requires_grad]


def test_unfreeze_after_0_meaning_never_is_refused_in_its_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = write_encoder(tmp_path / "e")
    monkeypatch.setattr(module, "FreezeCallback", OldSemantics)
    with pytest.raises(
        ProofError, match=r"two_phase was not carried out: tensor stayed frozen: .* in epoch 1"
    ):
        run(config(encoder, unfreeze_after=0))


def test_the_old_run_leaves_the_encoder_equal_to_the_bit_and_an_honest_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = write_encoder(tmp_path / "e")
    today = run(config(encoder, unfreeze_after=0))
    assert encoder_change(today, encoder) > 0  # 0 means: starts unfrozen
    said = run(config(encoder, freeze="frozen"))
    assert said.proof is not None
    assert encoder_change(said, encoder) == 0.0
    (phase,) = said.proof["phases"]
    assert (phase["encoder_tensors_frozen"], phase["encoder_tensors_moved"]) == (8, 0)
    # without the check of each epoch, the old run ends in the same place: nothing has moved
    monkeypatch.setattr(module, "FreezeCallback", OldSemantics)
    monkeypatch.setattr("moola.training.forensics._faults", lambda *_: [])
    old = run(config(encoder, unfreeze_after=0))
    assert encoder_change(old, encoder) == 0.0


# --- interrupted by kill -9, and resumed

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


# --- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "phases"}, r"phases \[\] last 0 epochs; expected 4"),
        ({"freeze": "phases", "phases": (3, 2)}, r"last 5 epochs; expected 4.*--epochs 5"),
        ({"freeze": "phases", "phases": (4, 0)}, "phases is 0"),
        ({"phases": (3, 1)}, r"phases \[3, 1\] is given with freeze 'two_phase'"),
        ({"class_weight": "balance"}, "class_weight is 'balance'; expected balanced, nothing, or"),
        ({"class_weight": "1,nan"}, "class_weight is '1,nan'"),
        ({"focal_gamma": math.nan}, "focal_gamma is nan"),
        ({"mixup_alpha": -0.1}, "mixup_alpha is -0.1"),
        ({"use_temporal_aug": "yes"}, "use_temporal_aug is 'yes'; expected true or false"),
        ({"unfreeze_lr_factor": 0.0}, "unfreeze_lr_factor is 0.0"),
        ({"patience": -1}, "patience is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    encoder = write_encoder(tmp_path / "e")
    with pytest.raises(ConfigError, match=message):
        config(encoder, **changes)


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5])
def test_the_learning_rate_factor_is_selectable(tmp_path: Path, factor: float) -> None:
    result = run(config(write_encoder(tmp_path / "e"), unfreeze_lr_factor=factor))
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-3 * factor, 3e-3 * factor])


def test_options_reach_the_estimator() -> None:
    made = config(
        class_weight="1,2",
        focal_gamma=2.0,
        use_temporal_aug=True,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    )
    model = build_model(made, "cpu")
    found = model.get_params()
    names = ("class_weight", "focal_gamma", "use_temporal_aug", "mixup_alpha", "cutmix_alpha")
    assert {n: found[n] for n in names} == {n: getattr(made, n) for n in names}
    assert schedule_of(made, model).name == "none"
    again = FinetuneConfig.from_mapping(json.loads(json.dumps(made.to_dict())))
    assert again == made


def test_phases_survive_json_and_a_baseline_ignores_them(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "e")
    made = config(encoder, freeze="phases", phases=(3, 1))
    assert FinetuneConfig.from_mapping(json.loads(json.dumps(made.to_dict()))) == made
    assert replace(made, pretrained_encoder=None).schedule == "none"


def test_rows_for_early_stopping_are_the_latest_and_purged() -> None:
    train = np.arange(20)
    first, label_end = np.arange(20) * 10, np.arange(20) * 10 + 25
    fit, held = early_stopping_rows(train, label_end, first)
    assert held.tolist() == [17, 18, 19]
    assert fit.tolist() == list(range(15))  # 15 and 16 end at 175 and 185, not before bar 170
