"""The ablation: the same training from scratch and from an encoder, under each freeze schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from moola.config.training import FinetuneConfig
from moola.errors import ConfigError
from moola.evaluation.compare import paired_comparison
from moola.evaluation.compare_result import PairedComparison
from moola.evaluation.gates.family import holm
from moola.training.crossval import WalkForwardPredictions
from moola.training.finetune import build_model, schedule_of

BASELINE = "A"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One arm of the ablation."""

    letter: str
    title: str
    config: FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class AblationFinding:
    """What the arms' predictions say, arm by arm against the baseline.

    Attributes
    ----------
    comparisons
        Paired comparison of each arm but the baseline with the baseline, by letter.
    p_adjusted
        Holm-adjusted p-values of the log-loss differences; None where there is no interval.
    identical
        Pairs of letters whose probabilities do not differ by more than 1e-6 anywhere.
    same_answers
        Pairs whose most probable classes are the same in every window, less the identical ones.
    same_schedule
        Pairs of arms whose schedules freeze the same tensors at the same epochs, so that the same
        answers are what they should give: no red flag.
    """

    comparisons: Mapping[str, PairedComparison]
    p_adjusted: Mapping[str, float | None]
    identical: tuple[tuple[str, str], ...]
    same_answers: tuple[tuple[str, str], ...]
    same_schedule: tuple[tuple[str, str], ...] = ()

    def flags(self) -> list[str]:
        """Return the red flags in words."""
        findings = [f"{a} and {b} give identical predictions: no effect" for a, b in self.identical]
        return findings + [
            f"{a} and {b} answer every window alike, though with other probabilities"
            for a, b in self.same_answers
        ]

    def notes(self) -> list[str]:
        """Return in words which arms could not differ."""
        return [
            f"{a} and {b} freeze the same tensors at the same epochs: one arm under two names"
            for a, b in self.same_schedule
        ]

    def conclusion(self, letter: str) -> str:
        """Return what can be said of an arm against the baseline, honestly."""
        delta = self.comparisons[letter].deltas["log_loss"]
        if any(letter in pair and BASELINE in pair for pair in self.identical):
            return "no effect: predictions identical to the baseline's"
        if delta.estimate is None or delta.low is None or delta.high is None:
            return f"nothing can be said: {delta.reason}"
        interval = f"log-loss {delta.estimate:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"
        adjusted = self.p_adjusted[letter]
        if delta.superior and adjusted is not None and adjusted < 1 - self.confidence(letter):
            return f"helps: {interval}"
        if delta.superior:
            return f"helps by its own interval, not after Holm's correction: {interval}"
        if delta.inferior:
            return f"harms: {interval}"
        if delta.equivalent:
            return f"makes no difference that matters: {interval}"
        return f"undecided: {interval}"

    def confidence(self, letter: str) -> float:
        """Return the two-sided confidence of an arm's intervals."""
        return self.comparisons[letter].confidence


def experiments(
    base: FinetuneConfig, *, gradual_after: int, only: str = "ABCDE"
) -> tuple[Experiment, ...]:
    """Return the arms A to E of a configuration with an encoder.

    A: from scratch. B: the encoder frozen all along. C: unfrozen from the start. D: frozen for
    ``base.unfreeze_after`` epochs (``two_phase``). E: every `gradual_after` epochs one more layer
    trains (``gradual``).

    Parameters
    ----------
    base
        Of the arms with an encoder; A drops it.
    gradual_after
        Epochs a layer, for E.
    only
        Letters of the arms to return.

    Returns
    -------
    tuple of Experiment
        In the order of their letters.

    Raises
    ------
    ConfigError
        If `base` has no encoder, `only` holds another letter or lacks A, or a schedule would not
        unfreeze before training ends.
    """
    if base.pretrained_encoder is None:
        raise ConfigError("an ablation needs an encoder", remedy="Give --pretrained-encoder")
    after = base.unfreeze_after
    arms = {
        "A": ("baseline, no encoder", replace(base, pretrained_encoder=None, freeze="two_phase")),
        "B": ("frozen all along", replace(base, freeze="frozen")),
        "C": ("unfrozen from the start", replace(base, freeze="none")),
        "D": (f"two-phase, unfrozen after {after} epochs", replace(base, freeze="two_phase")),
        "E": (
            f"gradual, a layer every {gradual_after} epochs",
            replace(base, freeze="gradual", unfreeze_after=gradual_after),
        ),
    }
    unknown = sorted(set(only) - set(arms))
    if unknown or BASELINE not in only or len(only) < 2:
        raise ConfigError(
            f"experiments is {only!r}", limit="A and at least one of B, C, D, E, such as ABD"
        )
    chosen = tuple(
        Experiment(letter=letter, title=title, config=config)
        for letter, (title, config) in arms.items()
        if letter in only
    )
    for experiment in chosen:
        _check_reached(experiment)
    return chosen


def same_schedules(arms: Sequence[Experiment]) -> tuple[tuple[str, str], ...]:
    """Return pairs of letters of arms with an encoder whose freeze schedules do the same.

    A gradual schedule over an encoder of one layer is the two-phase one, for instance.
    """
    phases = {
        arm.letter: schedule_of(arm.config, build_model(arm.config, "cpu")).phases
        for arm in arms
        if arm.letter != BASELINE
    }
    return tuple(pair for pair in combinations(phases, 2) if phases[pair[0]] == phases[pair[1]])


def _check_reached(experiment: Experiment) -> None:
    config = experiment.config
    last = schedule_of(config, build_model(config, "cpu")).phases[-1].first_epoch
    if last >= config.epochs:
        raise ConfigError(
            f"experiment {experiment.letter} unfreezes after epoch {last}, but training ends with "
            f"epoch {config.epochs}",
            limit=f"at most {config.epochs - 1}",
            remedy="Train longer (--epochs), unfreeze earlier (--unfreeze-after, --gradual-after) "
            "or leave it out (--experiments)",
        )


def judge_ablation(
    predictions: Mapping[str, WalkForwardPredictions],
    *,
    block_length: int,
    horizons_apart: bool = False,
    same_schedule: Sequence[tuple[str, str]] = (),
) -> AblationFinding:
    """Compare every arm with the baseline on the same windows, seeds averaged.

    Parameters
    ----------
    predictions
        By letter; the baseline's under ``A``. All on the same folds and seeds.
    block_length, horizons_apart
        As `moola.evaluation.compare.paired_comparison`.
    same_schedule
        Pairs of arms, as `same_schedules` finds them, that could not differ.

    Returns
    -------
    AblationFinding
        Signs: arm minus baseline.
    """
    baseline = predictions[BASELINE]
    comparisons = {
        letter: paired_comparison(
            baseline.y,
            arm.proba,
            baseline.proba,
            block_length=block_length,
            horizons_apart=horizons_apart,
        )
        for letter, arm in predictions.items()
        if letter != BASELINE
    }
    p_values = {k: c.deltas["log_loss"].p_value for k, c in comparisons.items()}
    adjusted = holm({k: p for k, p in p_values.items() if p is not None})
    identical, same = [], []
    for pair in combinations(sorted(predictions), 2):
        a, b = (predictions[letter].proba for letter in pair)
        if pair in same_schedule:
            continue
        if float(np.abs(a - b).max()) <= 1e-6:
            identical.append(pair)
        elif bool((a.argmax(axis=1) == b.argmax(axis=1)).all()):
            same.append(pair)
    return AblationFinding(
        comparisons=comparisons,
        p_adjusted={k: adjusted.get(k) for k in p_values},
        identical=tuple(identical),
        same_answers=tuple(same),
        same_schedule=tuple(same_schedule),
    )


def table_row(
    experiment: Experiment,
    metrics: Mapping[str, float | None],
    by_seed: Mapping[str, float | None],
    finding: AblationFinding,
) -> dict[str, Any]:
    """Return one row of the ablation's table: figures, spread over seeds, difference from A."""
    row: dict[str, Any] = {"experiment": f"{experiment.letter} {experiment.title}"}
    for name in ("log_loss", "brier", "accuracy", "roc_auc", "pr_auc", "ece"):
        row[name] = metrics.get(name)
    row |= {f"{name}_seed_std": spread for name, spread in by_seed.items()}
    if experiment.letter == BASELINE:
        return row | {"against_a": "the baseline"}
    for name, delta in finding.comparisons[experiment.letter].deltas.items():
        row |= {
            f"delta_{name}": delta.estimate,
            f"delta_{name}_low": delta.low,
            f"delta_{name}_high": delta.high,
        }
    row["p_holm_log_loss"] = finding.p_adjusted[experiment.letter]
    return row | {"against_a": finding.conclusion(experiment.letter)}
