"""Judge a candidate: walk-forward predictions, gates in order, evidence signed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from moola.config import names
from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.config.promotion import PromotionPolicy
from moola.data.registry import DataRegistry
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.gates import GateReport
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.plots import (
    confusion_figure,
    figure_to_array,
    figure_to_png,
    reliability_figure,
)
from moola.evaluation.report import html_report, verdict_markdown
from moola.promotion.evidence import evidence_from_report, sign, store_evidence
from moola.promotion.keys import ensure_signing_key, load_signing_key
from moola.steps.candidate import Candidate, find_candidate
from moola.steps.finetune import class_names
from moola.steps.judge import Judge
from moola.steps.progress import Progress, silent
from moola.tracking.lineage import dataset_input, git_state, run_name
from moola.tracking.mlflow_run import TrackedRun, child_run, tracked_run
from moola.tracking.store import connect
from moola.training.crossval import WalkForwardPredictions
from moola.training.device import describe_device, resolve_device

DEFAULT_CACHE = Path("artifacts/evaluation")


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The verdicts of one candidate."""

    run_id: str
    candidate: Candidate
    reports: tuple[GateReport, ...]
    metrics: Mapping[str, float | None]
    num_windows: int


def evaluate(
    *,
    version: str | None = None,
    name: str = names.REGISTERED_MODEL,
    folds: str | None = None,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  frozen
    thresholds: Thresholds | None = None,
    device: str = "auto",
    data_root: Path | str = "data",
    cache: Path = DEFAULT_CACHE,
    project: Path = Path(),
    progress: Progress = silent,
) -> EvaluationSummary:
    """Run the gates for one version and sign what was found.

    The version's own configuration is trained again on every walk-forward fold with several seeds;
    finished fold x seed results are reused. The locked test part is not looked at.

    Parameters
    ----------
    version
        Version of `name`; None takes the newest.
    folds
        Fold file; None takes the one made for the version's labelled set.
    cache
        Folder of finished fold x seed results.
    project
        Folder whose ``.moola/keys`` hold the gate runner's signing key, made on first use.
    """
    limits = thresholds or Thresholds.load()
    used = resolve_device(device)
    candidate = find_candidate(connect(), name, version)
    registry = DataRegistry(data_root)
    title = run_name(
        f"gates-{name}-v{candidate.version}",
        candidate.config.labeled,
        candidate.config.split,
        candidate.config.seed,
        git_state(),
    )
    params = {**config.to_dict(), "candidate": f"{name}/{candidate.version}", "device_used": used}
    with tracked_run(
        step="evaluate",
        experiment=names.EXPERIMENT_GATES,
        name=title,
        params=params,
        device=describe_device(used),
    ) as run:
        judge = Judge(
            candidate=candidate,
            registry=registry,
            folds=folds,
            config=config,
            limits=limits,
            device_asked=device,
            device=used,
            cache=cache,
            progress=progress,
        )
        reports = judge.reports()
        document = judge.gate_report(reports)
        metrics = _log(run, judge, reports, document)
        _sign(run, document, project)
    return EvaluationSummary(
        run_id=run.run_id,
        candidate=candidate,
        reports=reports,
        metrics=metrics,
        num_windows=len(judge.candidate_predictions().y),
    )


def _log(
    run: TrackedRun, judge: Judge, reports: tuple[GateReport, ...], document: Mapping[str, Any]
) -> Mapping[str, float | None]:
    """Log the parent run, with the candidate's own pooled figures, and one child run a gate."""
    predictions = judge.candidate_predictions()
    metrics = compute_metrics(predictions.y, predictions.proba)
    data = dataset_input(
        name=f"{judge.labeled.name}@{judge.folds.name}",
        sha256=judge.labeled.sha256,
        source=f"bars/{judge.labeled.source}",
        context="validation",
        shape=(len(predictions.y), *judge.labeled.X_ohlc.shape[1:]),
    )
    run.log_inputs([data])
    run.log_metrics(
        metrics, dataset=data
    )  # of models trained again: no link to the version
    run.log_json(names.ARTIFACT_GATE_REPORT, document)
    run.log_json(names.ARTIFACT_SPLIT, judge.folds.to_dict())
    _log_pictures(run, judge, predictions)
    page = html_report(
        reports,
        title=f"{judge.candidate.name} version {judge.candidate.version}",
        y=predictions.y,
        predictions=judge.predictions_made(),
        class_names=class_names(judge.labeled.meta),
        facts={
            "set": judge.labeled.name,
            "folds": judge.folds.name,
            "seeds": ", ".join(map(str, judge.config.seeds)),
            "model SHA-256": judge.candidate.model_sha256[:16],
        },
    )
    run.log_bytes(names.ARTIFACT_REPORT_PAGE, page.encode())
    label = f"{judge.candidate.name}/{judge.candidate.version}"
    run.log_table(
        names.ARTIFACT_GATES_TABLE,
        [
            {
                "gate": f"{r.gate} {r.name}",
                "verdict": f"{r.verdict}: {r.reasons[0]}",
                "version": label,
            }
            for r in reports
        ],
    )
    for report in reports:
        _log_gate(run, report, label)
    passed = [r for r in reports if r.verdict == "passed"]
    run.set_tags(
        {
            names.TAG_CANDIDATE: label,
            names.TAG_VERDICT: f"{len(passed)} of {len(reports)} gates passed",
            "mlflow.note.content": verdict_markdown(reports),
        }
    )
    return metrics


def _log_pictures(run: TrackedRun, judge: Judge, predictions: WalkForwardPredictions) -> None:
    y, proba = predictions.y, predictions.proba
    labels = class_names(judge.labeled.meta)
    title = f"{judge.candidate.name} v{judge.candidate.version}, {judge.folds.name}"
    reliability = reliability_figure(y, proba, title=title)
    confusion = confusion_figure(y, proba, labels, title=title)
    run.log_bytes(names.ARTIFACT_RELIABILITY, figure_to_png(reliability))
    run.log_bytes(names.ARTIFACT_CONFUSION, figure_to_png(confusion))
    run.log_image(names.IMAGE_RELIABILITY, figure_to_array(reliability))
    run.log_image(names.IMAGE_CONFUSION, figure_to_array(confusion))
    run.log_json(names.ARTIFACT_BINS, calibration_bins(y, proba).to_dict())
    columns: dict[str, Any] = {"window": predictions.rows, "label": y}
    columns |= {f"probability_{n}": proba[:, k] for k, n in enumerate(labels)}
    columns |= {f"prior_{n}": predictions.prior[:, k] for k, n in enumerate(labels)}
    table = pa.table({k: pa.array(v) for k, v in columns.items()})
    run.log_parquet(names.ARTIFACT_PREDICTIONS.format(part="walk_forward"), table)


def _log_gate(run: TrackedRun, report: GateReport, candidate: str) -> None:
    tags = {
        names.TAG_GATE: report.gate,
        names.TAG_VERDICT: report.verdict,
        names.TAG_REASON: report.reasons[0],
        names.TAG_CANDIDATE: candidate,
        "mlflow.note.content": f"**{report.question}** {report.verdict}\n\n"
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


def _sign(run: TrackedRun, document: Mapping[str, Any], project: Path) -> None:
    """Sign the gate report and pin it to the version."""
    run.require_store("signing the evidence")
    ensure_signing_key(project)
    key = load_signing_key(project, env=os.environ)
    evidence = evidence_from_report(
        document,
        gates_run_id=run.run_id,
        policy=PromotionPolicy(),
        key=key,
        now=datetime.now(UTC),
    )
    store_evidence(run.client, sign(evidence, key), evidence)
    for gate in document["gates"]:
        run.client.set_model_version_tag(
            evidence.name, evidence.version, f"{names.TAG_GATE}.{gate['gate']}", gate["verdict"]
        )
