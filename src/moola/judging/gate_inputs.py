"""The entry of each gate: its inputs from a candidate's judge, and the candidates it applies to.

The rule of a gate, a function from predictions to a report, is in `moola.evaluation.gates`; its
name, question and kind, which no candidate changes, are in `moola.config.gates`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moola.config.evaluation import CONTROLS
from moola.config.gates import GateAbout, add_gate
from moola.data.audit.synthetic import synthetic_checks
from moola.data.synthetic import make_synthetic
from moola.errors import ConfigError
from moola.evaluation import gates
from moola.evaluation.gates.report import GateReport
from moola.judging.candidate import Candidate
from moola.judging.null import label_arithmetic, repaired_share
from moola.judging.rivals import SIMPLE
from moola.models import REGISTRY
from moola.models.fitting.augmentation import TEMPORAL
from moola.models.weights.checkpoint import read_config
from moola.pretraining.corpus import split_by_time
from moola.pretraining.measurements import encoder_measurements
from moola.training.crossval import WalkForwardPredictions
from moola.training.finetune import encoder_claim

if TYPE_CHECKING:
    from moola.judging.judge import Judge

_MIXED = "mixup and cutmix windows are not tested: they are not valid bars"
_WORST_FIRST = ("failed", "inconclusive", "held", "passed")
Run = Callable[["Judge"], GateReport]


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """How a gate is run.

    Attributes
    ----------
    run
        Maps the judge to the report.
    asks
        Whether the gate applies to a candidate.
    about
        The ingredient of a candidate that the gate is about, in words; empty if it applies to all.
    """

    run: Run
    asks: Callable[[Candidate], bool]
    about: str


RUNS: dict[int, GateRun] = {}


def gate(
    number: int,
    new: GateAbout | None = None,
    *,
    asks: Callable[[Candidate], bool] = lambda candidate: True,
    about: str = "",
) -> Callable[[Run], Run]:
    """Return a decorator that registers a function from judge to report as a gate.

    Parameters
    ----------
    number
        Its number; gates are run in this order.
    new
        Name and question of a gate that `GATES` does not list.
    asks, about
        See `GateRun`.

    Raises
    ------
    BadInput
        If another gate has the number or the name.
    """
    if new is not None:
        add_gate(number, new)

    def enter(run: Run) -> Run:
        RUNS[number] = GateRun(run=run, asks=asks, about=about)
        return run

    return enter


def _has_encoder(candidate: Candidate) -> bool:
    return bool(candidate.uses_encoder)


def _is_net(candidate: Candidate) -> bool:
    return REGISTRY[candidate.config.model].is_net


@gate(0)
def _data(judge: Judge) -> GateReport:
    return gates.gate_0_data(
        audit=judge.data_audit,
        device_asked=judge.device_asked,
        device_used=judge.device,
    )


@gate(1)
def _baseline(judge: Judge) -> GateReport:
    if 2 in judge.gates:
        # Trained in parallel with the controls of gate 2.
        judge.rivals.prepare("scratch", judge.rivals.own, *judge.rivals.controls)
    return of_candidate_and_twin(
        judge,
        lambda model: gates.gate_1_baseline(
            model.y,
            model.proba,
            model.prior,
            context=judge.context(1),
            arithmetic=label_arithmetic(
                judge.store,
                judge.labeled,
                model.rows,
                num_surrogates=judge.limits.num_surrogates,
                seed=judge.config.seeds[0],
            ),
            repaired_share=repaired_share(judge.store, judge.labeled.source),
        ),
    )


@gate(2)
def _control(judge: Judge) -> GateReport:
    controls = judge.rivals.controls
    verdict = of_candidate_and_twin(
        judge,
        lambda model: gates.gate_2_control(
            model.y,
            model.proba,
            {name: judge.rivals.predictions(name).proba for name in controls},
            context=judge.context(2),
        ),
    )
    model = judge.candidate.config.model
    if model not in (*CONTROLS, *judge.config.controls):
        return verdict
    others = f"{model} is a control itself, and compared with the others: {', '.join(controls)}"
    return replace(verdict, reasons=(*verdict.reasons, others))


def of_candidate_and_twin(
    judge: Judge, rule: Callable[[WalkForwardPredictions], GateReport]
) -> GateReport:
    """Apply a rule to the candidate and, if it has an encoder or augments, to its plain twin.

    The candidate is what gets promoted, but the gates about encoder and augmentation compare with
    its training without either. The worse of the two verdicts counts.
    """
    candidate = judge.rivals.own
    reports = {
        name: rule(judge.rivals.of_the_version(name))
        for name in dict.fromkeys((candidate, "scratch"))
    }
    worst = min(reports, key=lambda name: _WORST_FIRST.index(reports[name].verdict))
    if len(reports) == 1:
        return reports[candidate]
    reports = {
        candidate: _with_subject("the candidate itself", reports[candidate]),
        "scratch": _with_subject("the same from scratch, without augmentation", reports["scratch"]),
    }
    other = reports[candidate if worst == "scratch" else "scratch"]
    return replace(
        reports[worst],
        figures=reports[worst].figures | {"judged": worst, "other_verdict": other.verdict},
        reasons=(*reports[worst].reasons, other.reasons[0]),
    )


def _with_subject(subject: str, report: GateReport) -> GateReport:
    return replace(report, reasons=(f"{subject}: {report.reasons[0]}", *report.reasons[1:]))


@gate(3, asks=_has_encoder, about="its encoder")
def _encoder(judge: Judge) -> GateReport:
    encoder = Path(str(judge.candidate.training.pretrained_encoder))
    claim = encoder_claim(encoder)
    corpus = judge.store.load_set(claim.name)
    val_split = read_config(encoder)["pretraining"]["val_split"]
    _, held_out = split_by_time(len(corpus), corpus.X_ohlc.shape[1], val_split)
    X, y = judge.labeled.X_ohlc, judge.labeled.y
    assert y is not None
    train, val = judge.split.train, judge.split.val
    step = max(1, int(corpus.meta["step_bars"]))
    measurements = encoder_measurements(
        encoder,
        np.asarray(corpus.X_ohlc[held_out]),
        (X[train], y[train], X[val], y[val]),
        corpus_block=-(-corpus.X_ohlc.shape[1] // step),
        probe_block=judge.block_length,
    )
    return gates.gate_3_encoder(measurements, thresholds=judge.limits)


@gate(4, asks=_has_encoder, about="its encoder")
def _transfer(judge: Judge) -> GateReport:
    transfer, scratch = (judge.rivals.predictions(r) for r in ("transfer", "scratch"))
    return gates.gate_4_transfer(
        transfer.y,
        transfer.proba,
        scratch.proba,
        load_report=transfer.load_report or {},
        schedule_proof=transfer.proof or {},
        context=judge.context(4),
    )


@gate(5, asks=_is_net, about="a net's training on augmented windows")
def _augmentation(judge: Judge) -> GateReport:
    augmented = judge.rivals.predictions("augmented")
    plain = "transfer" if judge.candidate.uses_encoder else "scratch"
    return gates.gate_5_augmentation(
        augmented.y,
        augmented.proba,
        {"the same without augmentation": judge.rivals.predictions(plain).proba},
        quality=_augmentation_quality(judge),
        trial=not judge.candidate.config.augments,
        context=judge.context(5),
    )


@gate(
    6,
    asks=lambda candidate: _is_net(candidate) and candidate.config.model != SIMPLE,
    about="a net bigger than SimpleLSTM",
)
def _simple(judge: Judge) -> GateReport:
    candidate = judge.rivals.of_the_version(judge.rivals.own)
    return gates.gate_6_simple(
        candidate.y,
        candidate.proba,
        judge.rivals.of_the_version(SIMPLE).proba,
        context=judge.context(6),
    )


@gate(7)
def _ensemble(judge: Judge) -> GateReport:
    ensemble, members = judge.rivals.ensemble()
    return gates.gate_7_ensemble(
        judge.rivals.predictions(judge.rivals.own).y,
        ensemble.proba,
        members,
        temperature_part="validation",
        temperatures=ensemble.temperatures,
        context=judge.context(7),
    )


def _augmentation_quality(judge: Judge) -> gates.AugmentationQuality:
    """Test the stored synthetic set, and the train part augmented once as if it were one.

    Mixup and cutmix windows are mixtures of real ones, never windows in price units; the report
    states that they are not tested.
    """
    config = judge.candidate.config
    mixed = [_MIXED] if config.mixup_alpha or config.cutmix_alpha else []
    tested = [judge.synthetic] if judge.synthetic else []
    if config.use_temporal_aug or not config.augments:
        augmented = make_synthetic(
            judge.labeled,
            judge.split,
            TEMPORAL.augment,
            name="temporal augmentation",
            config={"use_temporal_aug": True},
            random_state=judge.config.seeds[0],
        )
        tested.append(augmented)
    checks = [
        c
        for synthetic in tested
        for c in synthetic_checks(synthetic, judge.labeled, judge.split)[0]
    ]
    return gates.AugmentationQuality(
        passed=all(c.passed for c in checks),
        train_only=all(np.isin(m.parent, judge.split.train).all() for m in tested),
        reasons=(*(f"{c.name}: {c.detail}" for c in checks if not c.passed), *mixed),
    )


def gates_about(candidate: Candidate) -> tuple[int, ...]:
    """Return the gates that apply to a candidate, in order."""
    return tuple(number for number in sorted(RUNS) if RUNS[number].asks(candidate))


def why_not(number: int) -> str:
    """Return what a gate asks about, of a candidate that has none."""
    return f"gate {number} asks about {RUNS[number].about}"


def gates_without_subject(candidate: Candidate) -> dict[str, str]:
    """Return, by number, why the gates that do not apply to a candidate do not."""
    about = gates_about(candidate)
    return {str(n): f"{why_not(n)}, and it has none" for n in sorted(RUNS) if n not in about}


def asked_gates(candidate: Candidate, requested: tuple[int, ...]) -> tuple[int, ...]:
    """Return the gates to run for a candidate, in order: the requested ones, or all that apply.

    Parameters
    ----------
    candidate
        The version.
    requested
        Numbers of gates; empty: all that apply.

    Raises
    ------
    ConfigError
        If a requested gate does not apply to this candidate.
    """
    possible = gates_about(candidate)
    for number in requested:
        if number not in possible:
            raise ConfigError(
                f"{why_not(number)}, and version {candidate.version} has none",
                limit=f"one of {', '.join(map(str, possible))}",
                remedy="Leave --gate out to run every gate that applies",
            )
    return requested or possible
