"""Pretraining that is interrupted: resumed to the same weights, or ended with its state intact."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_kit import windows
from safetensors.torch import load_file

from moola.config.pretraining import PretrainConfig
from moola.errors import CheckpointError, ConfigError, DeviceError, ProofError
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.fitting.resume import path_of_state
from moola.pretraining.corpus import Corpus, epoch_order
from moola.pretraining.distributed import ALONE
from moola.pretraining.loop import rate_at
from moola.pretraining.masked_lstm_pretrain import MaskedLSTMPretrainer
from moola.pretraining.session import run_identity

pytestmark = pytest.mark.medium  # trains networks

TINY = PretrainConfig(
    hidden_dim=6, num_layers=2, dropout=0.2, epochs=4, batch_size=16, patch_size=3,
    device="cpu", seed=1, learning_rate=1e-2,
)  # fmt: skip


def weights(result: object) -> dict[str, torch.Tensor]:
    return dict(result.model.state_dict())  # type: ignore[attr-defined]


class Stop(Exception):
    pass


def stop_after(epoch: int):
    def on_epoch(row: dict[str, float], total: int) -> None:
        if row["epoch"] == epoch:
            raise Stop

    return on_epoch


BF16 = pytest.mark.skipif(
    torch.cpu.get_capabilities().get("avx512_bw") is False,
    reason="this CPU has no AVX512, and its LSTM no bfloat16",
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": True, "num_augmentations": 2},
        {"schedule": "onecycle"},
        pytest.param({"schedule": "onecycle", "amp": "bf16"}, marks=BF16),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, changes: dict) -> None:
    config, X, state = replace(TINY, **changes), windows(), tmp_path / "state.safetensors"
    whole = MaskedLSTMPretrainer(config).pretrain(X)
    with pytest.raises(Stop):
        MaskedLSTMPretrainer(config).pretrain(X, state_path=state, on_epoch=stop_after(1))
    again = MaskedLSTMPretrainer(config).pretrain(X, state_path=state, resume=True)
    assert again.resumed_at == 2
    assert again.history == whole.history
    assert again.kept_epoch == whole.kept_epoch
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    with pytest.raises(ConfigError, match="another run"):
        MaskedLSTMPretrainer(config, seed=2).pretrain(X, state_path=state, resume=True)


def test_a_run_is_known_by_its_device_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is the one it runs on, however it was asked for."""
    X = windows()
    mine, asked = run_identity(TINY, X, "cpu"), replace(TINY, device="auto")
    assert run_identity(asked, X, "cpu") == mine
    assert path_of_state(Path(), "pretrain-x", asked.to_dict()) == path_of_state(
        Path(), "pretrain-x", TINY.to_dict()
    )
    others = {run_identity(TINY, X, "cuda")}
    for module in ("torch", "moola"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.__version__", "0")
            others.add(run_identity(TINY, X, "cpu"))
    assert len(others - {mine}) == 3


CHILD = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_pretrain_loop import LONG, windows
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.pretraining.masked_lstm_pretrain import MaskedLSTMPretrainer
original, calls = BiLSTMMaskedAutoencoder.compute_loss, []

def killed(*args, **options):
    calls.append(1)
    if len(calls) == 98:  # the third of five batches of epoch 20
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **options)

BiLSTMMaskedAutoencoder.compute_loss = killed
MaskedLSTMPretrainer(LONG).pretrain(windows(), state_path=Path({state!r}))
"""
LONG = replace(TINY, epochs=60, patience=60)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    code = CHILD.format(paths=[str(Path(__file__).parent)], state=str(state))
    child = subprocess.run([sys.executable, "-c", code], check=False)
    assert child.returncode == -signal.SIGKILL
    again = MaskedLSTMPretrainer(LONG).pretrain(windows(), state_path=state, resume=True)
    whole = MaskedLSTMPretrainer(LONG).pretrain(windows())
    assert again.resumed_at == 19
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, X = tmp_path / "state.safetensors", windows()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails

    def fill(row: dict[str, float], total: int) -> None:
        if row["epoch"] == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    try:
        with pytest.raises(CheckpointError, match=r"after epoch 3 cannot be written.*--resume"):
            MaskedLSTMPretrainer(TINY).pretrain(X, state_path=state, on_epoch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    again = MaskedLSTMPretrainer(TINY).pretrain(X, state_path=state, resume=True)
    assert again.resumed_at == 2
    assert again.history == MaskedLSTMPretrainer(TINY).pretrain(X).history


def test_nan_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, X = tmp_path / "state.safetensors", windows()
    original, calls = BiLSTMMaskedAutoencoder.compute_loss, []

    def poisoned(self: BiLSTMMaskedAutoencoder, *args: torch.Tensor, **options: float) -> tuple:
        calls.append(1)
        loss, error = original(self, *args, **options)
        return (loss * float("nan"), error) if len(calls) > 8 else (loss, error)

    monkeypatch.setattr(BiLSTMMaskedAutoencoder, "compute_loss", poisoned)
    with pytest.raises(ProofError, match="epoch 2; expected finite losses"):
        MaskedLSTMPretrainer(TINY).pretrain(X, state_path=state)
    assert all(torch.isfinite(t).all() for t in load_file(state).values() if t.is_floating_point())


@pytest.mark.slow
def test_lack_of_memory_is_said_in_one_line(tmp_path: Path) -> None:
    code = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from test_pretrain_loop import TINY, windows
from moola.errors import DeviceError
from moola.pretraining.masked_lstm_pretrain import MaskedLSTMPretrainer
MaskedLSTMPretrainer(TINY, epochs=1).pretrain(windows())
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
try:
    MaskedLSTMPretrainer(TINY, hidden_dim=2048, batch_size=512).pretrain(windows(2000))
except DeviceError as error:
    print(error)
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "memory ran out" in made.stdout
    assert "Lower batch_size" in made.stdout


def test_lack_of_memory_in_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **options: object) -> None:
        torch.empty(2**50)  # the allocator's own refusal

    monkeypatch.setattr(BiLSTMMaskedAutoencoder, "forward", exhausted)
    with pytest.raises(DeviceError, match="memory ran out at batch_size 16"):
        MaskedLSTMPretrainer(TINY).pretrain(windows())


def test_rates_by_hand() -> None:
    cosine = replace(TINY, epochs=10, learning_rate=1e-3)
    assert rate_at(cosine, 0, 0, 5) == pytest.approx(1e-3)
    assert rate_at(cosine, 5, 27, 5) == pytest.approx((1e-3 + 1e-5) / 2)
    cycle = replace(cosine, schedule="onecycle")
    assert rate_at(cycle, 0, 0, 5) == pytest.approx(1e-3 / 5)  # 50 steps, 5 of them up
    assert rate_at(cycle, 0, 4, 5) == pytest.approx(1e-3)
    assert rate_at(cycle, 9, 50, 5) == pytest.approx(1e-5)


def test_offsets_take_one_window_of_every_stretch() -> None:
    config = replace(TINY, sampling="offsets", windows_per_epoch=10)
    rows = torch.arange(100) + 1000
    order = epoch_order(config, rows, 12, torch.Generator().manual_seed(0))
    assert sorted(((order - 1000) // 10).tolist()) == list(range(10))
    again = epoch_order(config, rows, 12, torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) != sorted(again.tolist())
    usual = replace(config, windows_per_epoch=None)
    assert len(epoch_order(usual, rows, 12, torch.Generator())) == 9  # 100 / 12 bars


def test_a_streamed_corpus_gives_the_resident_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", windows(200))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    resident = Corpus(X, device="cpu")
    streamed = Corpus(X, device="cpu", max_resident_mb=0)
    assert not streamed.resident
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator()
    pairs = zip(
        resident.batches(order, 32, draw, ALONE), streamed.batches(order, 32, draw, ALONE),
        strict=True,
    )  # fmt: skip
    for one, other in pairs:
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.rows, other.rows)


def test_copies_are_augmented_and_windows_are_not() -> None:
    from moola.pretraining.data_augmentation import TimeSeriesAugmenter

    X = windows(20)
    always = TimeSeriesAugmenter(jitter_prob=1)
    corpus = Corpus(X, device="cpu", augmenter=always, num_augmentations=2)
    rows = corpus.rows(np.array([3, 4]))
    assert rows.tolist() == [3, 4, 23, 24, 43, 44]
    (batch,) = corpus.batches(rows, 6, torch.Generator().manual_seed(0), ALONE)
    plain = Corpus(X, device="cpu").windows(torch.tensor([3, 4]))
    assert torch.allclose(batch.x[:2], plain, atol=1e-6)
    assert not torch.allclose(batch.x[2:4], plain, atol=1e-3)
    made = Corpus(X, device="cpu", augmenter=always, num_augmentations=2, materialise_seed=5)
    (fixed,) = made.batches(rows, 6, torch.Generator(), ALONE)
    assert torch.equal(fixed.x[:2], plain)
    assert not torch.allclose(fixed.x[2:4], plain, atol=1e-3)


@pytest.mark.slow
def test_two_processes_draw_the_curve_of_one(tmp_path: Path) -> None:
    """Without dropout, which every process draws for its own rows."""
    script = tmp_path / "child.py"
    script.write_text(f"""
import json, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from dataclasses import replace
from test_pretrain_loop import TINY, windows
from moola.pretraining.distributed import join_processes
from moola.pretraining.masked_lstm_pretrain import pretrain_masked
from moola.pretraining.session import Session
with join_processes("cpu") as share:
    config = replace(TINY, dropout=0.0, augment=True, num_augmentations=1, amp="fp32")
    run = pretrain_masked(windows(), config, Session(device="cpu", share=share))
    if share.leads:
        json.dump([share.size, run.history], open(sys.argv[1], "w"))
""")
    import json

    curves = {}
    for size in (1, 2):
        out = tmp_path / f"{size}.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={size}", str(script), str(out)]  # fmt: skip
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environ)
        seen, curves[size] = json.loads(out.read_text())
        assert seen == size
    for one, two in zip(curves[1], curves[2], strict=True):
        for name, value in one.items():
            assert two[name] == pytest.approx(value, abs=1e-4), name
