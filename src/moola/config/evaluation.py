"""Thresholds of the gates, and how an evaluation is run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

import yaml

from moola.config.base import (
    Config,
    check_choice,
    check_count,
    check_range,
    check_seeds,
    option,
    read_mapping,
)
from moola.config.gates import check_gates

# What gate 2 holds every candidate against, and what only on demand: docs/gates.md says the cost.
CONTROLS = ("minirocket", "logreg", "rf", "hgb")
FURTHER_CONTROLS = ("quant", "hydra_multirocket")


@dataclass(frozen=True, kw_only=True)
class Thresholds(Config):
    """Every threshold of every gate; `config/gates.yaml` gives the values and the reasons.

    Parameters
    ----------
    confidence
        Two-sided, of every interval, in (0, 1).
    num_resamples
        Of the block bootstrap, at least 100.
    min_effective_windows
        n / block length below which nothing is concluded.
    min_effective_windows_constant
        The same where the baseline is a constant (Gate 1, promotion over the class prior).
    min_predicted_share
        Ratio of how often a class is predicted to how often it occurs; below it is a warning.
    min_probability_std
        Least standard deviation over windows of a predicted probability, within folds, for a class
        of share 1/2; for others in proportion to the standard deviation of its labels.
    max_constant_share
        Greatest share of windows whose probabilities are the same within that deviation.
    min_balanced_accuracy_gain
        A balanced accuracy that does not exceed 1/K by more than this draws a warning.
    num_surrogates
        Windows of bars in no order, from which the label's own arithmetic is learned.
    max_credible_roc_auc, max_credible_entropy_share
        ROC-AUC, and share of the class prior's entropy that is explained, above which a pass is
        ``held`` until the leak checks are answered.
    min_probe_accuracy, min_latent_std, min_effective_rank
        Of the pretrained encoder.
    min_match_ratio, max_mismatched
        Of the load report.
    max_accuracy_loss
        Accuracy that training with synthetic windows may cost, as a fraction.
    margin_log_loss
        Difference in log-loss that does not matter, nats.
    min_labelled_windows
        Fewer defer TS2Vec and adapter runs.
    """

    confidence: float
    num_resamples: int
    min_effective_windows: float
    min_effective_windows_constant: float
    min_predicted_share: float
    min_probability_std: float
    max_constant_share: float
    min_balanced_accuracy_gain: float
    num_surrogates: int
    max_credible_roc_auc: float
    max_credible_entropy_share: float
    min_probe_accuracy: float
    min_latent_std: float
    min_effective_rank: float
    min_match_ratio: float
    max_mismatched: int
    max_accuracy_loss: float
    margin_log_loss: float
    min_labelled_windows: int

    def __post_init__(self) -> None:
        check_range("confidence", self.confidence, low=0.5, high=1.0, open_high=True)
        check_count("num_resamples", self.num_resamples, low=100)
        for name in ("min_effective_windows", "min_effective_windows_constant"):
            check_range(name, getattr(self, name), low=2.0)
        for name in (
            "min_predicted_share",
            "max_constant_share",
            "min_match_ratio",
            "min_probe_accuracy",
            "max_credible_roc_auc",
            "max_credible_entropy_share",
        ):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        for name in (
            "min_probability_std",
            "min_balanced_accuracy_gain",
            "min_latent_std",
            "min_effective_rank",
            "max_accuracy_loss",
            "margin_log_loss",
        ):
            check_range(name, getattr(self, name), low=0.0)
        check_count("num_surrogates", self.num_surrogates, low=100)
        check_count("max_mismatched", self.max_mismatched, low=0)
        check_count("min_labelled_windows", self.min_labelled_windows)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read `path`, or the thresholds that come with Moola.

        A file may hold some of the keys only; the others keep Moola's values.

        Parameters
        ----------
        path
            YAML over Moola's own thresholds; None: just these.

        Returns
        -------
        Thresholds
            The thresholds, checked.

        Raises
        ------
        ConfigError
            On an unknown key, a value out of range, or a file that is not YAML.
        """
        text = resources.files("moola.config").joinpath("gates.yaml").read_text()
        values = yaml.safe_load(text)
        if path is not None:
            values |= read_mapping(path, "thresholds")
        return cls.from_mapping(values)

    def digest(self) -> str:
        """Return the SHA-256 of the values, whichever file and comments they came with."""
        whole = ("num_resamples", "num_surrogates", "max_mismatched", "min_labelled_windows")
        values = {k: v if k in whole else float(v) for k, v in self.to_dict().items()}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """How an evaluation is run.

    Parameters
    ----------
    seeds
        At least one, all distinct.
    gates
        In any order; empty: every gate that applies to the candidate.
    controls
        Some of `FURTHER_CONTROLS`; `CONTROLS` cannot be left out.
    """

    seeds: tuple[int, ...] = option((17, 18, 19), "Training seeds, averaged per window.")
    gates: tuple[int, ...] = option(
        (),
        "Run this gate only (may be repeated); nothing is signed if one is missing.",
        flag="--gate", repeated=int,
    )  # fmt: skip
    controls: tuple[str, ...] = option(
        (),
        f"Further control of gate 2 (may be repeated): {', '.join(FURTHER_CONTROLS)}.",
        flag="--control", repeated=str, suggested=FURTHER_CONTROLS,
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        check_seeds(self.seeds)
        object.__setattr__(self, "gates", tuple(sorted(set(self.gates))))
        check_gates("gates", self.gates)
        for control in self.controls:
            check_choice("control", control, (*CONTROLS, *FURTHER_CONTROLS))
        further = [name for name in FURTHER_CONTROLS if name in self.controls]
        object.__setattr__(self, "controls", tuple(further))
