"""Logs of an evaluation: the parent run, one child run per gate, pictures and pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moola.config import names
from moola.data.labels import class_names
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.gates import GateReport
from moola.evaluation.metrics import NULL_BAND, Interval, metric_intervals
from moola.evaluation.pages.report import html_report, verdict_markdown
from moola.judging.folds import folds_dataset
from moola.judging.gate_inputs import gates_without_subject
from moola.judging.investigation import Example, disagreements, investigate
from moola.judging.judge import Judge
from moola.judging.predictions import log_diagrams, predictions_table
from moola.tracking.mlflow_run import TrackedRun, child_run
from moola.training.crossval import WalkForwardPredictions


def log_data(run: TrackedRun, judge: Judge) -> None:
    """Log the folds, their windows, and the audit of the split and every fold."""
    run.proofs.log("split", judge.folds.to_dict())
    run.log_inputs([folds_dataset(judge.labeled, judge.folds, judge.num_windows)])
    run.proofs.log("audit", judge.data_audit.to_dict())


def log_evaluation(
    run: TrackedRun, judge: Judge, reports: tuple[GateReport, ...], document: Mapping[str, Any]
) -> Mapping[str, float | None]:
    """Log the parent run and its children; return the candidate's pooled metrics.

    They are empty without walk-forward predictions of the candidate: gates 0 and 3 need none, and a
    failed gate 0 forbids them.
    """
    run.log_json(names.ARTIFACT_GATE_REPORT, document)
    metrics: Mapping[str, float | None] = {}
    if (candidate := judge.rivals.own) in judge.rivals.finished:
        metrics = _log_predictions(run, judge, judge.rivals.of_the_version(candidate))
    else:
        run.proofs.none("calibration", "no gate that was run asked for the candidate's predictions")
    examples = disagreements(judge)
    _log_pages(run, judge, reports, examples)
    label = f"{judge.candidate.name}/{judge.candidate.version}"
    rows = [
        {"gate": f"{r.gate} {r.name}", "verdict": f"{r.verdict}: {r.reasons[0]}", "version": label}
        for r in reports
    ]
    run.log_table(names.ARTIFACT_GATES_TABLE, rows)
    for report in reports:
        _log_gate(run, report, label)
    passed = [r for r in reports if r.verdict == "passed"]
    run.set_tags(
        {
            names.TAG_CANDIDATE: label,
            names.TAG_VERDICT: f"{len(passed)} of {len(reports)} gates passed",
            names.TAG_NOTE: verdict_markdown(reports),
        }
    )
    return metrics


def _log_predictions(
    run: TrackedRun, judge: Judge, predictions: WalkForwardPredictions
) -> Mapping[str, float | None]:
    intervals = metric_intervals(predictions.y, predictions.proba, block_length=judge.block_length)
    metrics = {name: interval.estimate for name, interval in intervals.items()}
    ends = {k: v for name, interval in intervals.items() for k, v in _ends(name, interval).items()}
    data = folds_dataset(judge.labeled, judge.folds, len(predictions.y))
    # Not linked to the version's model: its configuration was trained again for each fold.
    run.log_metrics({**metrics, **ends}, dataset=data)
    labels = class_names(judge.labeled.recipe)
    title = f"{judge.candidate.name} v{judge.candidate.version}, {judge.folds.name}"
    log_diagrams(run, predictions.y, predictions.proba, labels, title=title)
    run.proofs.log("calibration", calibration_bins(predictions.y, predictions.proba).to_dict())
    table = predictions_table(
        predictions.rows,
        predictions.y,
        labels,
        probability=predictions.proba,
        prior=predictions.prior,
    )
    run.log_parquet(names.ARTIFACT_PREDICTIONS.format(part="walk_forward"), table)
    return metrics


def _ends(name: str, interval: Interval) -> dict[str, float | None]:
    """Return the ends of an interval, or the upper end of a null band, by name."""
    if interval.kind == NULL_BAND:
        return {f"{name}_null_p95": interval.high}
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _log_pages(
    run: TrackedRun, judge: Judge, reports: tuple[GateReport, ...], examples: tuple[Example, ...]
) -> None:
    """Log the HTML report and, if a control won, ``investigation.md`` with its pictures."""
    predictions = judge.rivals.probabilities()
    first = next(iter(judge.rivals.finished.values()), None)
    page = html_report(
        reports,
        title=f"{judge.candidate.name} version {judge.candidate.version}",
        y=[] if first is None else first.y,
        predictions=predictions,
        block_length=judge.block_length,
        class_names=class_names(judge.labeled.recipe),
        facts={
            "set": judge.labeled.name,
            "folds": judge.folds.name,
            "seed of the version": str(judge.candidate.config.seed),
            "seeds": ", ".join(map(str, judge.config.seeds)),
            "model SHA-256": judge.candidate.model_sha256[:16],
            **{
                f"gate {number} does not apply": reason.partition(" asks about ")[2]
                for number, reason in gates_without_subject(judge.candidate).items()
            },
        },
        examples={e.caption: e.png for e in examples},
    )
    run.log_bytes(names.ARTIFACT_REPORT_PAGE, page.encode())
    lost = next((r for r in reports if r.gate == 2 and r.verdict == "failed"), None)
    if lost is not None:
        path = names.ARTIFACT_DISAGREEMENT
        for example in examples:
            run.log_bytes(path.format(window=example.window), example.png)
        text = investigate(judge, lost, examples, picture_path=path)
        run.log_bytes(names.ARTIFACT_INVESTIGATION, text.encode())


def _log_gate(run: TrackedRun, report: GateReport, candidate: str) -> None:
    tags = {
        names.TAG_GATE: report.gate,
        names.TAG_VERDICT: report.verdict,
        names.TAG_REASON: report.reasons[0],
        names.TAG_CANDIDATE: candidate,
        names.TAG_NOTE: f"**{report.question}** {report.verdict}\n\n"
        + "\n".join(f"- {reason}" for reason in report.reasons),
    }
    name = f"gate-{report.gate}-{report.name}"
    with child_run(run, name, tags=tags, metrics=_flat_metrics(report.figures)) as child:
        child.log_json(names.ARTIFACT_GATE_REPORT, report.to_dict())


def _flat_metrics(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return numbers by name; an interval gives ``<name>``, ``<name>_low`` and ``<name>_high``."""
    flat: dict[str, float] = {}
    for key, value in figures.items():
        name = prefix if key == "estimate" else f"{prefix}_{key}".strip("_")
        if isinstance(value, Mapping):
            flat |= _flat_metrics(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat
