"""Two versions of any classifier or regressor on the same rows: metrics, verdict and record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from moola.config.base import check_choice, check_count, check_range
from moola.errors import BadInput, ConfigError, one_line, shown
from moola.evaluation.compare_result import Delta
from moola.evaluation.dependence import effective_sample_size, persistence
from moola.evaluation.gates.promotion import look_confidence
from moola.evaluation.rows import LOSSES, Losses, loss_difference

RowVerdict = Literal["better", "worse", "not shown", "non-inferior"]
Wants = Literal["probabilities", "labels", "numbers", "as answered"]
SUPERIOR, NON_INFERIOR = "superior", "non-inferior"
CONFIDENCE: Final = 0.95
_WANTS: Mapping[str, Wants] = {
    "log_loss": "probabilities",
    "brier": "probabilities",
    "accuracy": "labels",
    "mae": "numbers",
    "mse": "numbers",
    "pinball": "numbers",
}
_MOST_CLASSES = 1000
_SUM_TOLERANCE = 1e-3
_PROBABILITIES_COME = (
    "Use --metric accuracy, or log the model with probabilities: "
    'mlflow.sklearn.log_model(model, pyfunc_predict_fn="predict_proba"), or a predict that '
    "answers one column for each class"
)


@dataclass(frozen=True, kw_only=True)
class RowMetric:
    """A loss of each row, and what a model has to answer for it."""

    name: str
    wants: Wants
    losses: Callable[[NDArray[Any], NDArray[Any]], Losses]


def row_metric(text: str) -> RowMetric:
    """Return a metric by its name: one of `LOSSES`, ``pinball:0.9`` or ``module:function``.

    A function of one's own is called with the target, shape (n,), and what the model answered,
    shape (n,) or (n, k), and returns the loss of each row, shape (n,), finite, less is better.

    Raises
    ------
    ConfigError
        If there is no such metric, or no such function.
    """
    name, _, rest = text.partition(":")
    if name == "pinball" and rest:
        try:
            quantile = float(rest)
        except ValueError:
            quantile = float("nan")
        check_range("pinball's quantile", quantile, high=1, low=0, open_low=True, open_high=True)
        return RowMetric(name=text, wants="numbers", losses=partial(_pinball, quantile=quantile))
    if not rest:
        check_choice("metric", text, (*LOSSES, "pinball:QUANTILE", "MODULE:FUNCTION"))
        if text not in LOSSES:
            raise ConfigError(f"metric is {text!r}", limit="such as pinball:0.9, mine:loss")
        losses = _label_error if text == "accuracy" else LOSSES[text]
        return RowMetric(name=text, wants=_WANTS[text], losses=losses)
    try:
        function = getattr(import_module(name), rest)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"metric {text} cannot be imported: {one_line(error)}",
            limit="module:function, importable from this folder",
        ) from None
    if not callable(function):
        raise ConfigError(f"metric {text} is no function", limit="function(y, answers)")
    return RowMetric(name=text, wants="as answered", losses=partial(_own, function, text))


def _pinball(y: NDArray, answer: NDArray, *, quantile: float) -> Losses:
    short = y - answer
    return np.asarray(np.maximum(quantile * short, (quantile - 1.0) * short))


def _label_error(y: NDArray, answer: NDArray) -> Losses:
    return np.asarray((y != answer).astype(np.float64))


def _own(function: Callable[..., Any], name: str, y: NDArray, answer: NDArray) -> Losses:
    try:
        losses = np.asarray(function(y, answer), dtype=np.float64)
    except Exception as error:  # the user's function, told in one line
        line = one_line(error)
        raise ConfigError(f"metric {name} fails: {type(error).__name__}: {line}") from None
    if losses.shape != (len(y),):
        raise ConfigError(f"metric {name} answers shape {losses.shape}", limit=f"({len(y)},)")
    return losses


def row_losses(
    metric: RowMetric,
    y: NDArray[Any],
    values: NDArray[Any],
    classes: Sequence[str | float] | None,
    *,
    what: str,
) -> Losses:
    """Return the loss of each row.

    Parameters
    ----------
    metric
        The metric.
    y
        Target, shape (n,), numbers or texts, nothing missing.
    values
        What the model answered, shape (n,) or (n, k).
    classes
        What its k columns mean; None: the target's values in their order.
    what
        The model, for messages.

    Raises
    ------
    BadInput
        If the answers do not fit the metric, or a loss is not finite.
    """
    if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
        raise BadInput(
            f"{bad} of the {values.size} answers of {what} are not finite",
            limit="a number for each row",
            remedy="A model that answers NaN cannot be compared; look at these rows' features",
        )
    if metric.wants == "numbers":
        losses = metric.losses(_numbers(y, "the target"), _numbers(values, what))
    elif metric.wants == "as answered":
        losses = metric.losses(y, values)
    else:
        names = _texts(y)
        if metric.wants == "labels":
            losses = metric.losses(names, _labels(names, values, classes, what))
        else:
            losses = metric.losses(*_probabilities(names, values, classes, what))
    if not np.isfinite(losses).all():
        bad = int((~np.isfinite(losses)).sum())
        raise BadInput(f"{bad} losses of {what} are not finite", limit="finite losses")
    return losses


def _numbers(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise BadInput(
            f"{what} has shape {values.shape} of type {values.dtype}",
            limit="one number a row",
            remedy="For classes use --metric log_loss, brier or accuracy",
        )
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise BadInput(f"{what} holds values that are not finite", limit="finite numbers")
    return numbers


def _texts(values: Any) -> NDArray[np.str_]:
    """Return class names as texts, so that 1, 1.0 and True are one class, "1" as well."""
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        distinct, index = np.unique(array, return_inverse=True)
        return np.asarray([f"{float(v):.17g}" for v in distinct], dtype=np.str_)[index]
    texts, index = np.unique(array.astype(np.str_), return_inverse=True)
    return np.asarray([_one_text(str(t)) for t in texts], dtype=np.str_)[index]


def _one_text(text: str) -> str:
    """Return a class name; a whole number as `_texts` writes numbers."""
    if text in ("True", "False"):
        return "1" if text == "True" else "0"
    try:
        return f"{float(text):.17g}"
    except ValueError:
        return text


def _in_order(names: NDArray[np.str_]) -> list[str]:
    """Return the distinct classes: numbers by size, else in the order of the alphabet."""
    distinct = [str(name) for name in np.unique(names)]
    if len(distinct) > _MOST_CLASSES:
        raise BadInput(
            f"the target has {len(distinct)} different values",
            limit=f"at most {_MOST_CLASSES} classes",
            remedy="For numbers use --metric mae, mse or pinball:0.5",
        )
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def _is_probability(values: NDArray[Any]) -> bool:
    """Whether one number a row is a probability and not a class 0 or 1."""
    inside = values.dtype.kind == "f" and float(values.min()) >= 0 and float(values.max()) <= 1
    return inside and bool((values % 1 != 0).any())


def _probabilities(
    names: NDArray[np.str_],
    values: NDArray[Any],
    classes: Sequence[str | float] | None,
    what: str,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the index of each row's class and the probabilities, shape (n, k)."""
    order = _in_order(names)
    if values.ndim == 1:
        if len(order) > 2 or not set(order) <= {"0", "1"} or not _is_probability(values):
            raise BadInput(
                f"{what} answers labels, not probabilities",
                limit="a probability for each class",
                remedy=_PROBABILITIES_COME,
            )
        values, columns = np.column_stack([1 - values, values]), ["0", "1"]
    else:
        columns = _column_names(values, classes, order, what)
    far = np.abs(values.sum(axis=1) - 1).max() if values.dtype.kind == "f" else np.inf
    if not far <= _SUM_TOLERANCE or values.min() < 0:
        raise BadInput(
            f"the rows that {what} answers are no probabilities: they differ from 1 by up to "
            f"{far:.3g}",
            limit="numbers of at least 0 that add up to 1",
            remedy=_PROBABILITIES_COME,
        )
    number = {name: column for column, name in enumerate(columns)}
    distinct, index = np.unique(names, return_inverse=True)
    return np.asarray([number[str(n)] for n in distinct], dtype=np.int64)[index], values


def _column_names(
    values: NDArray[Any],
    classes: Sequence[str | float] | None,
    order: list[str],
    what: str,
) -> list[str]:
    columns = order if classes is None else [str(c) for c in _texts_of(classes)]
    if values.shape[1] != len(columns):
        raise BadInput(
            f"{what} answers {values.shape[1]} columns for {len(columns)} classes",
            limit="a column for each class",
        )
    if unknown := sorted(set(order) - set(columns)):
        raise BadInput(
            f"the target has the class {shown(unknown[0])}, which {what} does not know",
            limit=f"one of its {len(columns)} classes",
        )
    return columns


def _texts_of(classes: Sequence[str | float]) -> list[str]:
    return [_one_text(c) if isinstance(c, str) else f"{float(c):.17g}" for c in classes]


def _labels(
    names: NDArray[np.str_],
    values: NDArray[Any],
    classes: Sequence[str | float] | None,
    what: str,
) -> NDArray[np.str_]:
    order = _in_order(names)
    if values.ndim == 2:
        columns = np.asarray(_column_names(values, classes, order, what))
        return np.asarray(columns[values.argmax(axis=1)], dtype=np.str_)
    if set(order) <= {"0", "1"} and _is_probability(values):
        return np.where(values >= 0.5, "1", "0")
    return _texts(values)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two versions on the same rows: everything that is signed about it.

    Attributes
    ----------
    model, version, version_sha256
        The candidate, and the digest of its files.
    other_model, other_version, other_sha256, other_alias
        What it is held against; the alias it was named by, or None.
    data_sha256, target, group, time
        Digest of the data file's bytes, and the columns' roles.
    metric, kind, margin
        The loss; ``superior`` or ``non-inferior``; the largest negligible difference.
    estimate, low, high, level
        Mean loss of the candidate less the other's, and its two-sided interval.
    minimum_detectable, p_value
        Smallest true difference found with 80 % power; two-sided, against no difference.
    loss, other_loss
        Mean losses.
    rows, clusters, effective_rows, method
        Rows; clusters, None without; rows that as many independent ones would be worth, of rows in
        time, else None; how the interval was made.
    identical
        Both answer the same on every row.
    looks
        Number of this look at these data, from 1.
    verdict, reason
        The verdict, and why there is no interval.
    created_at, code_version
        When (UTC, ISO), and Moola's version.
    not_cut
        What could not be cut off while the models ran: network, processes, files.
    """

    model: str
    version: str
    version_sha256: str
    other_model: str
    other_version: str
    other_sha256: str
    other_alias: str | None
    data_sha256: str
    target: str
    group: str | None
    time: str | None
    metric: str
    kind: str
    margin: float
    estimate: float | None
    low: float | None
    high: float | None
    level: float
    minimum_detectable: float | None
    p_value: float | None
    loss: float
    other_loss: float
    rows: int
    clusters: int | None
    effective_rows: float | None
    method: str
    identical: bool
    looks: int
    verdict: RowVerdict
    reason: str | None
    created_at: str
    code_version: str
    not_cut: tuple[str, ...]

    def to_dict(self) -> Mapping[str, Any]:
        """Return plain, JSON-ready values."""
        return asdict(self)


def judged(
    candidate: Losses,
    other: Losses,
    *,
    metric: str,
    identical: bool,
    clusters: NDArray[Any] | None = None,
    in_time: bool = False,
    kind: str = SUPERIOR,
    margin: float = 0.0,
    look: int = 1,
) -> Mapping[str, Any]:
    """Return the statistical fields of a `Comparison`.

    Parameters
    ----------
    candidate, other
        Loss of each row, shape (n,); in time order with `in_time`.
    metric
        Its name.
    identical
        Whether both answer the same on every row: the candidate is then never better.
    clusters, in_time
        See `moola.evaluation.rows.loss_difference`.
    kind, margin
        ``superior``, or ``non-inferior`` within a margin above 0.
    look
        Number of this look at these rows, from 1: look k may err with probability
        ``alpha / (k (k + 1))`` (`moola.evaluation.gates.promotion.look_confidence`).

    Raises
    ------
    BadInput
        If kind, margin or look cannot be used, or as `loss_difference`.
    """
    check_count("look", look)
    check_choice("kind", kind, (SUPERIOR, NON_INFERIOR))
    check_range("margin", margin, low=0.0, open_low=kind == NON_INFERIOR)
    level = look_confidence(CONFIDENCE, look)
    delta = loss_difference(
        candidate, other, metric=metric, margin=margin, clusters=clusters, in_time=in_time,
        confidence=level,
    )  # fmt: skip
    difference = candidate - other
    worth = effective_sample_size(len(difference), persistence(difference)) if in_time else None
    method = "cluster-robust t" if clusters is not None else "skewness-corrected t"
    return {
        "metric": metric,
        "kind": kind,
        "margin": margin,
        "estimate": delta.estimate,
        "low": delta.low,
        "high": delta.high,
        "level": level,
        "minimum_detectable": delta.minimum_detectable,
        "p_value": delta.p_value,
        "loss": float(candidate.mean()),
        "other_loss": float(other.mean()),
        "rows": len(difference),
        "clusters": None if clusters is None else len(np.unique(clusters)),
        "effective_rows": None if worth is None else float(worth),
        "method": "autocorrelation-robust, measured" if in_time else method,
        "identical": identical,
        "looks": look,
        "verdict": _verdict(delta, kind, identical=identical),
        "reason": "both answer the same on every row" if identical else delta.reason,
    }


def _verdict(delta: Delta, kind: str, *, identical: bool) -> RowVerdict:
    if identical:
        return "not shown"
    if delta.superior:
        return "better"
    if kind == NON_INFERIOR and delta.non_inferior:
        return "non-inferior"
    return "worse" if delta.inferior else "not shown"
