"""Masks, the masked autoencoder, its training and its quality figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_kit import CLAIM, windows

from moola.config.pretraining import MultitaskConfig, PretrainConfig, TS2VecConfig
from moola.data.windows import normalise
from moola.errors import CheckpointError, ConfigError, MoolaError
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.pretraining.corpus import split_by_time
from moola.pretraining.kinds import KINDS, load_pretrained
from moola.pretraining.masked_lstm_pretrain import ENCODER_KIND, MaskedLSTMPretrainer
from moola.pretraining.masking import draw_mask
from moola.pretraining.measurements import encoder_measurements
from moola.pretraining.quality import (
    collapse_figures,
    interpolate_masked,
    masked_errors,
)
from moola.pretraining.session import Session, save_pretrained

pytestmark = pytest.mark.medium  # trains networks

TINY = PretrainConfig(
    hidden_dim=4, num_layers=1, epochs=2, batch_size=16, patch_size=3, device="cpu", seed=1
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("strategy", ["random", "block", "patch"])
def test_every_window_has_the_same_number_of_masked_bars(strategy: str) -> None:
    mask = draw_mask(strategy, 64, 105, ratio=0.15, patch_size=7, generator=generator())
    assert mask.shape == (64, 105)
    assert set(mask.sum(dim=1).tolist()) == {14 if strategy == "patch" else 16}
    again = draw_mask(strategy, 64, 105, ratio=0.15, patch_size=7, generator=generator())
    assert torch.equal(mask, again)
    assert mask.float().mean(dim=0).std() > 0  # drawn, not fixed


def test_block_mask_is_one_stretch() -> None:
    mask = draw_mask("block", 200, 20, ratio=0.25, patch_size=7, generator=generator()).int()
    starts = (mask[:, 1:] - mask[:, :-1] == 1).sum(dim=1) + mask[:, 0]
    assert set(starts.tolist()) == {1}
    assert mask[:, 0].any()
    assert mask[:, -1].any()


def test_patch_mask_lies_on_the_grid() -> None:
    mask = draw_mask("patch", 50, 23, ratio=0.3, patch_size=5, generator=generator())
    for patch in range(5):
        part = mask[:, patch * 5 : patch * 5 + 5]
        assert torch.equal(part.all(dim=1), part.any(dim=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 12}, r"mask_ratio 0.15 in patches of 12 hides all 12 bars of a window"),
        ({"mask_ratio": 0.9, "patch_size": 6}, "in patches of 6 hides all 12 bars"),
        ({"mask_strategy": "random", "mask_ratio": 0.97}, "mask_ratio 0.97 hides all 12 bars"),
        ({"mask_strategy": "block", "mask_ratio": 0.97}, "at least one bar that stays visible"),
    ],
)
def test_a_mask_of_whole_windows_is_refused_before_training(
    options: dict[str, Any], message: str
) -> None:
    epochs: list[int] = []
    pretrainer = MaskedLSTMPretrainer(TINY, **options)
    with pytest.raises(ConfigError, match=message):
        pretrainer.pretrain(windows(), on_epoch=lambda row, total: epochs.append(total))
    assert epochs == []


def test_loss_counts_masked_bars_only_and_the_collapse_term() -> None:
    net = BiLSTMMaskedAutoencoder(hidden_dim=2, num_layers=1, dropout=0.0)
    x = torch.zeros(1, 4, 4)
    guess = torch.tensor([1.0, 5.0, 9.0, 9.0]).reshape(1, 4, 1).expand(1, 4, 4)
    mask = torch.tensor([[True, True, False, False]])
    loss, error = net.compute_loss(guess, x, mask, torch.zeros(1, 4, 4))
    assert error.item() == pytest.approx((1 + 25) / 2)
    assert loss.item() == pytest.approx(13 + 0.1 * 1.0)  # no spread at all: the whole penalty


def test_masked_bars_do_not_leak_into_the_encoder() -> None:
    net = BiLSTMMaskedAutoencoder(hidden_dim=3, num_layers=1).eval()
    x = torch.randn(2, 8, 4)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 3:5] = True
    changed = x.clone()
    changed[:, 3:5] += 10
    assert torch.equal(net(x, mask)[0], net(changed, mask)[0])
    assert not torch.equal(net(x, ~mask)[0], net(changed, ~mask)[0])


def test_split_by_time_leaves_no_shared_bar() -> None:
    train, val = split_by_time(100, 12, 0.1)
    assert val.tolist() == list(range(90, 100))
    assert train[-1] + 11 < val[0]
    with pytest.raises(ConfigError, match="leave none"):
        split_by_time(12, 12, 0.1)


def test_pretraining_learns_is_deterministic_and_reloads(tmp_path: Path) -> None:
    X = windows()
    pretrainer = MaskedLSTMPretrainer(TINY, device="cpu")
    first, second = pretrainer.pretrain(X), pretrainer.pretrain(X)
    assert first.history == second.history
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    longer = PretrainConfig(**{**TINY.to_dict(), "epochs": 25, "learning_rate": 0.01})
    history = MaskedLSTMPretrainer(longer, device="cpu").pretrain(X).history
    assert history[-1]["train_recon"] < 0.7 * history[0]["train_recon"]

    save_pretrained(tmp_path / "encoder", ENCODER_KIND, first, TINY, CLAIM)
    loaded = load_pretrained(tmp_path / "encoder")
    x, mask = torch.from_numpy(normalise(X[:4])), torch.zeros(4, 12, dtype=torch.bool)
    assert torch.equal(loaded(x, mask)[0], first.model(x, mask)[0])
    (tmp_path / "encoder" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="kind None is no pretrained encoder"):
        load_pretrained(tmp_path / "encoder")


def test_arguments_by_name_and_the_older_file(tmp_path: Path) -> None:
    from moola.models.pretrained_utils import load_pretrained_strict

    pretrainer = MaskedLSTMPretrainer(
        input_dim=4, hidden_dim=4, num_layers=1, mask_strategy="random", batch_size=16
    )
    result = pretrainer.pretrain(windows(), n_epochs=1, save_path=tmp_path / "encoder.pt")
    assert len(result.history) == 1
    target = BiLSTMMaskedAutoencoder(hidden_dim=4, num_layers=1)
    report = load_pretrained_strict(target, tmp_path / "encoder.pt")
    assert report["match_ratio_encoder"] == 1.0
    assert torch.equal(target.encoder.weight_hh_l0, result.model.encoder.weight_hh_l0)
    with pytest.raises(ConfigError, match="hidden_dims"):
        MaskedLSTMPretrainer(hidden_dims=4)
    with pytest.raises(ConfigError, match="input_dim is 5"):
        MaskedLSTMPretrainer(input_dim=5)


def test_the_bridge_starts_at_linear_interpolation() -> None:
    net = BiLSTMMaskedAutoencoder(hidden_dim=3, num_layers=1, bridge=True).eval()
    torch.nn.init.zeros_(net.decoder[2].weight)
    torch.nn.init.zeros_(net.decoder[2].bias)
    x = torch.from_numpy(normalise(windows(6)))
    mask = draw_mask("block", 6, 12, ratio=0.3, patch_size=3, generator=generator())
    linear, _ = interpolate_masked(x.double().numpy(), mask.numpy())
    assert torch.allclose(net(x, mask)[0], torch.from_numpy(linear).float(), atol=1e-5)


def test_nan_loss_ends_the_run() -> None:
    config = PretrainConfig(**{**TINY.to_dict(), "learning_rate": 1.0, "epochs": 3})
    pretrainer = MaskedLSTMPretrainer(config, device="cpu")
    X = windows()
    original = BiLSTMMaskedAutoencoder.compute_loss

    def poisoned(self: BiLSTMMaskedAutoencoder, *args: torch.Tensor, **total: None) -> tuple:
        loss, error = original(self, *args, **total)
        return loss * float("nan"), error * float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BiLSTMMaskedAutoencoder, "compute_loss", poisoned)
        with pytest.raises(MoolaError, match=r"train_loss.* not a number in epoch 1"):
            pretrainer.pretrain(X)


def test_linear_interpolation_by_hand() -> None:
    x = np.arange(6, dtype=float)[None, :, None] ** 2 * np.ones(4)  # 0 1 4 9 16 25
    mask = np.array([[True, False, True, True, False, True]])
    linear, last = interpolate_masked(x, mask)
    assert linear[0, :, 0].tolist() == pytest.approx([1, 1, 6, 11, 16, 16])
    assert last[0, :, 0].tolist() == pytest.approx([1, 1, 1, 1, 16, 16])


def test_masked_errors_of_a_straight_line_are_zero_for_interpolation() -> None:
    line = np.linspace(100, 111, 12)[None, :, None] + np.array([0.0, 0.5, -0.5, 0.0])
    X = np.repeat(line, 5, axis=0).astype(np.float32)
    net = BiLSTMMaskedAutoencoder(hidden_dim=3, num_layers=1).eval()
    block = {"mask_strategy": "block", "mask_ratio": 0.2, "patch_size": 3}
    errors = masked_errors(net, X, block, seed=3)
    inside = errors["linear"] < 1e-8
    assert inside.any()
    assert (errors["model"] > 0).all()
    assert (errors["last_value"] > 0).all()


def test_collapse_figures_by_hand() -> None:
    rng = np.random.default_rng(0)
    round_ = rng.normal(size=(4000, 3))
    assert collapse_figures(round_)["effective_rank"] == pytest.approx(3, abs=0.01)
    flat = np.column_stack([round_[:, 0], 2 * round_[:, 0], np.zeros(4000)])
    figures = collapse_figures(flat)
    assert figures["effective_rank"] == pytest.approx(1, abs=0.01)
    assert figures["latent_std_min"] == 0.0
    assert figures["num_dims"] == 3
    still = collapse_figures(np.full((50, 3), 0.25))
    assert (still["effective_rank"], still["latent_std_min"]) == (0.0, 0.0)


TINY_MULTITASK = MultitaskConfig(
    hidden_dim=4, num_layers=1, epochs=1, batch_size=16, horizon_bars=2, device="cpu", seed=1
)
TINY_TS2VEC = TS2VecConfig(
    hidden_dim=4, output_dim=6, depth=2, epochs=1, windows_per_epoch=16, device="cpu", seed=1
)


@pytest.mark.parametrize("config", [TINY, TINY_MULTITASK, TINY_TS2VEC])
def test_measurements_have_what_gate_3_reads_of_every_kind(tmp_path: Path, config: Any) -> None:
    from moola.evaluation.gates import gate_3_encoder

    X, kind = windows(120), KINDS[type(config)]
    result = kind.pretrain(X, config, Session(device="cpu"))
    save_pretrained(tmp_path / "encoder", kind.name, result, config, CLAIM)
    y = (np.arange(120) // 5) % 2
    measured = encoder_measurements(
        tmp_path / "encoder",
        X[result.val_rows],
        (X[:60], y[:60], X[60:], y[60:]),
        corpus_block=3,
        probe_block=3,
    )
    assert measured["effective_rank"] == pytest.approx(
        kind.measure(result.model, X[result.val_rows], config, 3).figures["effective_rank"]
    )
    report = gate_3_encoder(measured)
    assert report.verdict == "failed"  # an epoch or two of a tiny net beat nothing
    task = {
        TINY: "delta_masked_error",
        TINY_MULTITASK: "loss of the three tasks",
        TINY_TS2VEC: "error of retrieval",
    }[config]
    assert task in (report.figures.get("pretext"), *report.figures)
    assert report.gate == 3
