"""Fine-tuning as a whole: encoder in, schedule carried out and proven, silent transfer refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from finetune_kit import config, encoder_change, run, windows, write_encoder

from moola.errors import AuditError, CheckpointError, ProofError
from moola.models.fitting.callbacks import FitState
from moola.models.weights.freeze import FreezeCallback
from moola.training import finetune as module
from moola.training.finetune import epoch_line

pytestmark = pytest.mark.medium  # trains networks


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
        run(config(encoder, num_layers=1))


def test_a_net_takes_its_size_from_its_encoder(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "e", num_layers=2)
    result = run(config(encoder))
    assert (result.model.hidden_size, result.model.num_layers) == (32, 2)
    assert result.load_report is not None
    assert result.load_report["match_ratio_encoder"] == 1.0


def test_an_encoder_that_does_not_state_its_corpus_is_refused(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "e", corpus=None)
    with pytest.raises(AuditError, match="does not state the corpus"):
        run(config(encoder))


def test_a_layer_the_encoder_does_not_bring_trains_from_the_start(
    tmp_path: Path,
) -> None:
    encoder = write_encoder(tmp_path / "e", num_layers=1)
    result = run(config(encoder, freeze="frozen", min_match_ratio=0.5, num_layers=2))
    assert result.proof is not None
    assert result.evolution is not None
    assert result.proof["proven"]
    rows = [r for r in result.evolution.to_pylist() if r["part"] == "encoder"]
    assert {r["tensor"] for r in rows if r["requires_grad"]} == {
        n
        for n, _ in result.model.net_.named_parameters()
        if n.startswith("encoder.") and "_l1" in n
    }


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
