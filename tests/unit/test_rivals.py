"""The rivals of a candidate: each differs in what its gate asks about, and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data_kit import SPLIT, small_registry

from moola.config.evaluation import EvaluateConfig
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, DataError
from moola.evaluation.gates.report import GateReport, report
from moola.judging.candidate import Candidate
from moola.judging.folds import find_folds
from moola.judging.gate_inputs import asked_gates, of_candidate_and_twin
from moola.judging.progress import silent
from moola.judging.rivals import Rivals, rival_config
from moola.promotion.versions.inspection import Inspection
from moola.training.crossval import WalkForwardPredictions
from moola.training.launchers import LocalLauncher

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


def judge_of(config: FinetuneConfig, proba: dict[str, np.ndarray]) -> Any:
    """Return what a gate asks of a judge: rivals whose trainings are done, with seeds 17 and 18."""
    rivals = Rivals(
        config,
        None,
        None,
        config=EvaluateConfig(seeds=(17, 18)),
        device="cpu",
        cache=Path("nowhere"),
        launcher=LocalLauncher(),
        progress=silent,
        on_training=lambda *_: None,
    )
    y = np.zeros(4, dtype=np.int64)
    for name, by_seed in proba.items():
        rivals.finished[name] = WalkForwardPredictions(
            rows=y, y=y, proba=by_seed.mean(axis=0), proba_by_seed=by_seed, prior=by_seed[0],
            load_report=None, proof=None,
        )  # fmt: skip
    return SimpleNamespace(rivals=rivals)


def test_what_is_promoted_is_judged_by_its_own_seed() -> None:
    by_seed = np.array([np.full((4, 2), 0.2), np.full((4, 2), 0.6)])
    for seed, expected in ((17, 0.2), (18, 0.6)):
        config = replace(PLAIN, seed=seed)
        judge = judge_of(config, {"scratch": by_seed, "logreg": by_seed[1:]})
        assert (judge.rivals.of_the_version("scratch").proba == expected).all()
        assert np.allclose(judge.rivals.predictions("scratch").proba, 0.4)
        assert (judge.rivals.of_the_version("logreg").proba == 0.6).all()


@pytest.mark.parametrize(
    ("own", "twin", "verdict", "judged"),
    [
        ("passed", "passed", "passed", "transfer"),
        ("passed", "inconclusive", "inconclusive", "scratch"),
        ("failed", "passed", "failed", "transfer"),
        ("held", "passed", "held", "transfer"),
        ("held", "inconclusive", "inconclusive", "scratch"),
    ],
)
def test_candidate_and_twin_are_both_judged_and_the_worse_verdict_holds(
    own: str, twin: str, verdict: str, judged: str
) -> None:
    config = replace(ENCODER, seed=17)
    shares = {"transfer": 0.9, "scratch": 0.1}
    judge = judge_of(config, {n: np.full((2, 4, 2), share) for n, share in shares.items()})

    def rule(model: WalkForwardPredictions) -> GateReport:
        said = own if model.proba[0, 0] == 0.9 else twin
        return report(2, said, [f"it is {said}"], figures={"share": float(model.proba[0, 0])})

    found = of_candidate_and_twin(judge, rule)
    assert found.verdict == verdict
    assert found.figures["share"] == shares[judged]
    assert found.figures["judged"] == judged
    assert any(r == f"the candidate itself: it is {own}" for r in found.reasons)
    assert any(r.endswith(f"without augmentation: it is {twin}") for r in found.reasons)
    plain = judge_of(replace(PLAIN, seed=17), {"scratch": np.full((2, 4, 2), 0.9)})
    assert of_candidate_and_twin(plain, rule).reasons == (f"it is {own}",)
