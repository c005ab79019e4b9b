"""One page that says what the gates found: HTML that opens offline, and Markdown for MLflow."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from moola.errors import BadInput
from moola.evaluation.compare import HIGHER_IS_BETTER
from moola.evaluation.gates.report import GateReport, sentence
from moola.evaluation.metrics import NULL_BAND, Interval, metric_intervals
from moola.evaluation.pages.plots import (
    confusion_figure,
    figure_to_png,
    forest_figure,
    reliability_figure,
)
from moola.evaluation.pages.report_style import STYLE

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
    """Return a self-contained page: no script, no font and no image from elsewhere.

    Parameters
    ----------
    reports
        In the order to show; at least one.
    title
        Of the page, usually the candidate's name.
    y
        Class indices of the windows all `predictions` speak of, shape (n,).
    predictions
        Probabilities by model, shape (n, K) each, the candidate first; may be empty.
    block_length
        Windows per block of the metrics' intervals, see
        `moola.evaluation.compare.block_length_from_overlap`.
    class_names
        K names; indices where None.
    facts
        Short facts shown under the title (set, split, seeds, digest).
    examples
        PNG images by caption, such as the windows most disagreed on.

    Returns
    -------
    str
        One HTML document.

    Raises
    ------
    BadInput
        If there is no report, or on predictions no metric should be computed from.
    """
    if not reports:
        raise BadInput("there is no gate report", limit="at least one")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(reports))}</p>',
        _facts(facts or {}),
        _verdict_table(reports),
        _forests(reports),
    ]
    if predictions:
        body += [
            _metric_table(y, predictions, block_length),
            _diagrams(y, predictions, class_names),
        ]
    if examples:
        images = "".join(_figure(png, caption) for caption, png in examples.items())
        body.append(f'<h2>Examples</h2><div class="row">{images}</div>')
    body.append(_details(reports))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def verdict_markdown(reports: Sequence[GateReport]) -> str:
    """Return one paragraph and a table of verdicts, for ``mlflow.note.content``.

    Parameters
    ----------
    reports
        In the order to show; at least one.

    Returns
    -------
    str
        Markdown, with a final newline.

    Raises
    ------
    BadInput
        If there is no report.
    """
    if not reports:
        raise BadInput("there is no gate report", limit="at least one")
    lines = [_lead(reports), "", "| gate | question | verdict | why |", "|---|---|---|---|"]
    for found in reports:
        cells = (_gate(found), found.question, f"**{found.verdict}**", found.reasons[0])
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join(lines) + "\n"


def forest_intervals(reports: Sequence[GateReport]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, by metric, every gate's interval of that metric's difference, by label."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for report in reports:
        sources = {_gate(report): report.figures}
        for name, figures in report.figures.get("controls", {}).items():
            sources[f"{_gate(report)}, {name}"] = figures
        for label, figures in sources.items():
            for metric in HIGHER_IS_BETTER:
                interval = figures.get(f"delta_{metric}")
                if interval is not None:
                    found.setdefault(metric, {})[label] = interval
    return found


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


def _verdict_table(reports: Sequence[GateReport]) -> str:
    rows = []
    for found in reports:
        rest = "".join(f"<li>{escape(reason)}</li>" for reason in found.reasons[1:])
        more = f"<ul>{rest}</ul>" if rest else ""
        note = ' <span class="soft">warns only</span>' if found.advisory else ""
        rows.append(
            f"<tr><th>{escape(_gate(found))}{note}</th><td>{escape(found.question)}</td>"
            f'<td><span class="badge {found.verdict}">{found.verdict}</span></td>'
            f"<td><p>{escape(sentence(found.reasons[0]))}</p>{more}</td></tr>"
        )
    head = "<tr><th>gate</th><th>question</th><th>verdict</th><th>why</th></tr>"
    return f'<h2>Verdicts</h2><div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _forests(reports: Sequence[GateReport]) -> str:
    images = []
    for metric, intervals in forest_intervals(reports).items():
        better = "right" if HIGHER_IS_BETTER[metric] else "left"
        figure = forest_figure(intervals, _label(metric), better=better)
        images.append(_figure(figure, f"difference in {_label(metric)}"))
    if not images:
        return ""
    return f'<h2>Differences, with intervals</h2><div class="row two">{"".join(images)}</div>'


def _metric_table(y: ArrayLike, predictions: Mapping[str, ArrayLike], block_length: int) -> str:
    head = "".join(f"<th>{escape(_label(name))}</th>" for name in _METRICS)
    rows = []
    for model, proba in predictions.items():
        found = metric_intervals(y, proba, block_length=block_length)
        cells = "".join(f"<td>{_interval(found[name])}</td>" for name in _METRICS)
        rows.append(f"<tr><th>{escape(model)}</th>{cells}</tr>")
    return (
        '<h2>Metrics, with 95 % intervals</h2><div class="wide"><table class="numbers">'
        f"<tr><th>model</th>{head}</tr>{''.join(rows)}</table></div>"
    )


def _diagrams(
    y: ArrayLike, predictions: Mapping[str, ArrayLike], class_names: Sequence[str] | None
) -> str:
    reliability, confusion = [], []
    for model, proba in predictions.items():
        num_classes = len(next(iter(proba)))  # type: ignore[arg-type]
        names = class_names or [str(k) for k in range(num_classes)]
        reliability.append(
            _figure(reliability_figure(y, proba, model, per_class=False), f"reliability, {model}")
        )
        confusion.append(_figure(confusion_figure(y, proba, names, model), f"confusion, {model}"))
    return (
        '<h2>Reliability</h2><p class="soft">Bars: where a perfectly calibrated model would lie '
        'at this number of windows, 95 %. Red points lie outside.</p><div class="row">'
        f'{"".join(reliability)}</div><h2>Confusion</h2><div class="row">{"".join(confusion)}</div>'
    )


def _details(reports: Sequence[GateReport]) -> str:
    rows = []
    for found in reports:
        used = ", ".join(f"{key} {value}" for key, value in sorted(found.thresholds.items()))
        if used:
            rows.append(f"<tr><th>{escape(_gate(found))}</th><td>{escape(used)}</td></tr>")
    if not rows:
        return ""
    return (
        f"<details><summary>Thresholds in force</summary><table>{''.join(rows)}</table></details>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    pairs = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{pairs}</dl>"


def _figure(image: Figure | bytes, caption: str) -> str:
    png = image if isinstance(image, bytes) else figure_to_png(image)
    data = base64.b64encode(png).decode()
    text = escape(caption, quote=True)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"></figure>'


def _gate(found: GateReport) -> str:
    return found.name if found.gate == "promotion" else f"{found.gate} {found.name}"


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric)


def _interval(found: Interval) -> str:
    if found.estimate is None:
        return '<span class="soft">undefined</span>'
    if found.low is None or found.high is None:
        return f"{found.estimate:.3f}"
    if found.kind == NULL_BAND:
        calibrated = f"calibrated: up to {found.high:.3f}"
        return f'{found.estimate:.3f}<br><span class="soft">{calibrated}</span>'
    ends = f"{found.low:.3f} &ndash; {found.high:.3f}"
    return f'{found.estimate:.3f}<br><span class="soft">{ends}</span>'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
