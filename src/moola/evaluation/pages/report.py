"""The report of an evaluation: an HTML page that opens offline, and Markdown for MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from moola.errors import BadInput
from moola.evaluation.compare import HIGHER_IS_BETTER
from moola.evaluation.gates.report import GateReport, sentence
from moola.evaluation.metrics import NULL_BAND, Interval, metric_intervals
from moola.evaluation.pages.plots import (
    Side,
    confusion_figure,
    figure_to_png,
    forest_figure,
    reliability_figure,
)
from moola.html import render
from moola.markdown import markdown_table

_METRICS = (
    "log_loss",
    "brier",
    "accuracy",
    "balanced_accuracy",
    "f1_weighted",
    "pr_auc",
    "roc_auc",
    "mcc",
    "ece",
)
_LABELS = {
    "log_loss": "log-loss",
    "brier": "Brier",
    "balanced_accuracy": "balanced accuracy",
    "f1_weighted": "weighted F1",
    "pr_auc": "PR-AUC",
    "roc_auc": "ROC-AUC",
    "mcc": "MCC",
    "ece": "ECE",
}
_STOPPERS = ("failed", "inconclusive", "blocked", "deferred", "held")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG and its caption."""

    png: bytes
    caption: str


def html_report(
    reports: Sequence[GateReport],
    *,
    title: str,
    y: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    block_length: int,
    class_names: Sequence[str] | None = None,
    facts: Mapping[str, str] | None = None,
    examples: Mapping[str, bytes] | None = None,
) -> str:
    """Return a self-contained page, without scripts, fonts or images from elsewhere.

    Parameters
    ----------
    reports
        In their order on the page; at least one.
    title
        Title of the page, usually the candidate's name.
    y
        Class indices of the predicted windows, shape (n,).
    predictions
        Probabilities by model, shape (n, K) each, the candidate first; may be empty.
    block_length
        Windows per block of the metrics' intervals, see
        `moola.evaluation.compare.block_length_from_overlap`.
    class_names
        K names; None: the indices.
    facts
        Short facts under the title (set, split, seeds, digest).
    examples
        PNG images by caption, such as the windows with the largest disagreement.

    Raises
    ------
    BadInput
        If there is no report, or on predictions no metric should be computed from.
    """
    _require_reports(reports)
    used = {_gate(report): report.thresholds for report in reports if report.thresholds}
    return render(
        "evaluation/pages/report.html.j2",
        title=title,
        lead=_lead(reports),
        facts=facts or {},
        reports=reports,
        label=_gate,
        sentence=sentence,
        forests=_forests(reports),
        metric_labels=[_label(name) for name in _METRICS],
        metrics=_metrics(y, predictions, block_length),
        null_band=NULL_BAND,
        reliability=[
            _picture(reliability_figure(y, p, model, per_class=False), f"reliability, {model}")
            for model, p in predictions.items()
        ],
        confusion=[
            _picture(
                confusion_figure(y, p, class_names or _indices(p), model), f"confusion, {model}"
            )
            for model, p in predictions.items()
        ],
        examples=[Picture(png=png, caption=text) for text, png in (examples or {}).items()],
        thresholds={
            gate: ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
            for gate, values in used.items()
        },
    )


def verdict_markdown(reports: Sequence[GateReport]) -> str:
    """Return one paragraph and a table of verdicts, for ``mlflow.note.content``.

    Parameters
    ----------
    reports
        In their order in the table; at least one.

    Raises
    ------
    BadInput
        If there is no report.
    """
    _require_reports(reports)
    rows = [(_gate(r), r.question, f"**{r.verdict}**", r.reasons[0]) for r in reports]
    table = markdown_table(("gate", "question", "verdict", "why"), rows)
    return f"{_lead(reports)}\n\n{table}\n"


def forest_intervals(reports: Sequence[GateReport]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, by metric, every gate's interval of that metric's difference, by label."""
    by_metric: dict[str, dict[str, dict[str, Any]]] = {}
    for report in reports:
        sources = {_gate(report): report.figures}
        for name, figures in report.figures.get("controls", {}).items():
            sources[f"{_gate(report)}, {name}"] = figures
        for label, figures in sources.items():
            for metric in HIGHER_IS_BETTER:
                interval = figures.get(f"delta_{metric}")
                if interval is not None:
                    by_metric.setdefault(metric, {})[label] = interval
    return by_metric


def _lead(reports: Sequence[GateReport]) -> str:
    promotion = next((r for r in reports if r.gate == "promotion"), None)
    if promotion is not None:
        start = {
            "passed": "May replace Production",
            "inconclusive": "Production stays: no verdict at this number of windows",
            "held": "Production stays until the leak checks are answered",
        }.get(promotion.verdict, f"Production stays: promotion {promotion.verdict}")
        return f"{start}. {sentence(promotion.reasons[0])}"
    stopper = next((r for r in reports if r.verdict in _STOPPERS and not r.advisory), None)
    if stopper is None:
        names = ", ".join(str(r.gate) for r in reports)
        return f"No gate forbids promotion (gates run: {names}). Promotion was not asked for."
    return f"Gate {_gate(stopper)}: {stopper.verdict}. {sentence(stopper.reasons[0])}"


def _require_reports(reports: Sequence[GateReport]) -> None:
    if not reports:
        raise BadInput(
            "there is no gate report", limit="at least one", remedy="Run a gate: `moola evaluate`"
        )


def _forests(reports: Sequence[GateReport]) -> list[Picture]:
    pictures = []
    for metric, intervals in forest_intervals(reports).items():
        better: Side = "right" if HIGHER_IS_BETTER[metric] else "left"
        figure = forest_figure(intervals, _label(metric), better=better)
        pictures.append(_picture(figure, f"difference in {_label(metric)}"))
    return pictures


def _metrics(
    y: ArrayLike, predictions: Mapping[str, ArrayLike], block_length: int
) -> dict[str, list[Interval]]:
    """Return the intervals of the shown metrics, in their order, by model."""
    rows = {}
    for model, proba in predictions.items():
        intervals = metric_intervals(y, proba, block_length=block_length)
        rows[model] = [intervals[name] for name in _METRICS]
    return rows


def _picture(figure: Figure, caption: str) -> Picture:
    return Picture(png=figure_to_png(figure), caption=caption)


def _indices(proba: ArrayLike) -> list[str]:
    return [str(k) for k in range(np.asarray(proba).shape[1])]


def _gate(report: GateReport) -> str:
    return report.name if report.gate == "promotion" else f"{report.gate} {report.name}"


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric)
