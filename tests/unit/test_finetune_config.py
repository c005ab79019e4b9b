"""Settings of fine-tuning: what is refused, what reaches the estimator, the rows held back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune_kit import config, run, write_encoder

from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, DataError
from moola.training.finetune import build_model, early_stopping_rows, schedule_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "phases"}, r"phases \[\] last 0 epochs; expected 4"),
        ({"freeze": "phases", "phases": (3, 2)}, r"last 5 epochs; expected 4.*--epochs 5"),
        ({"freeze": "phases", "phases": (4, 0)}, "phases is 0"),
        ({"freeze": "phases", "phases": 5}, "phases is 5; expected a list"),
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


def test_a_set_is_known_by_its_whole_name_however_it_is_written() -> None:
    """Gates, ablations and searches look it up by the name that the run keeps."""
    assert FinetuneConfig(labeled="mine").labeled == "labeled_windows/mine"
    assert FinetuneConfig(labeled="mine") == FinetuneConfig(labeled="labeled_windows/mine")
    old = FinetuneConfig.from_mapping({**FinetuneConfig().to_dict(), "labeled": "v2"})
    assert old.labeled == "labeled_windows/v2"


@pytest.mark.medium
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


def test_early_stopping_never_leaves_nothing_to_fit_on() -> None:
    first = np.arange(20) * 10
    with pytest.raises(DataError, match=r"of 20 training windows none is left.*--patience 0"):
        early_stopping_rows(np.arange(20), first + 200, first)
    for few in (1, 0):
        with pytest.raises(DataError, match=f"of {few} training windows"):
            early_stopping_rows(np.arange(few), first + 1, first)
