"""The rivals of a candidate: each differs in what its gate asks about, and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from data_kit import SPLIT, small_registry

from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, DataError
from moola.promotion.inspection import Inspection
from moola.steps.candidate import Candidate
from moola.steps.folds import find_folds
from moola.steps.gate_inputs import asked_gates
from moola.steps.rivals import rival_config

PLAIN = FinetuneConfig(epochs=7, labeled="labeled_windows/v2")
ENCODER = replace(PLAIN, pretrained_encoder="artifacts/encoder")
MIXED = replace(ENCODER, mixup_alpha=0.4)


def candidate(config: FinetuneConfig) -> Candidate:
    inspection = Inspection(
        sha256="0",
        config=config,
        class_names=("a", "b"),
        window_bars=105,
        encoder_sha256=None,
        conformal={},
    )
    return Candidate(name="m", version="3", run_id="r", inspection=inspection, training=config)


def test_rivals_differ_from_the_candidate_in_what_their_gate_asks_about() -> None:
    assert rival_config(PLAIN, "scratch") == PLAIN
    assert rival_config(MIXED, "scratch") == PLAIN
    assert rival_config(MIXED, "transfer") == ENCODER
    assert rival_config(MIXED, "augmented") == MIXED
    assert rival_config(ENCODER, "augmented") == replace(ENCODER, use_temporal_aug=True)
    simple = rival_config(MIXED, "simple_lstm")
    assert simple == replace(PLAIN, model="simple_lstm", preset="compact")


def test_a_control_does_not_depend_on_the_candidate_beyond_its_set() -> None:
    other = replace(MIXED, epochs=2, learning_rate=1e-2)
    assert rival_config(MIXED, "logreg") == rival_config(other, "logreg")
    assert rival_config(MIXED, "logreg").labeled == "labeled_windows/v2"


def test_gates_that_ask_about_nothing_are_left_out_or_refused() -> None:
    assert asked_gates(candidate(PLAIN), ()) == (0, 1, 2, 5, 6, 7)
    assert asked_gates(candidate(MIXED), ()) == (0, 1, 2, 3, 4, 5, 6, 7)
    assert asked_gates(candidate(MIXED), (4,)) == (4,)
    simple = candidate(replace(PLAIN, model="simple_lstm"))
    assert asked_gates(simple, ()) == (0, 1, 2, 5, 7)
    with pytest.raises(ConfigError, match="gate 4 asks about its encoder, and version 3 has none"):
        asked_gates(candidate(PLAIN), (0, 4))
    with pytest.raises(ConfigError, match="bigger than SimpleLSTM"):
        asked_gates(simple, (6,))


def test_folds_are_found_by_their_set_only_where_there_is_no_choice(tmp_path: Path) -> None:
    registry = small_registry(tmp_path)
    with pytest.raises(DataError, match="no walk-forward folds of labeled_windows/v1"):
        find_folds(registry, "labeled_windows/v1", None)
    walk = replace(SPLIT, strategy="walk_forward", num_folds=2)
    registry.build_split("two", walk)
    assert find_folds(registry, "labeled_windows/v1", None).name == "two"
    registry.build_split("another", replace(walk, num_folds=3))
    with pytest.raises(DataError, match="several walk-forward folds: splits/another, splits/two"):
        find_folds(registry, "labeled_windows/v1", None)
    assert find_folds(registry, "labeled_windows/v1", "two").name == "two"
