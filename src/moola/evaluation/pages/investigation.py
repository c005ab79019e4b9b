"""The investigation after a control beats the model: labels, windows, leaks, features; Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.data.audit.trail import AuditTrail
from moola.errors import BadInput
from moola.evaluation.gates.report import GateReport, sentence
from moola.markdown import markdown_table

_PERIODS = 8


@dataclass(frozen=True, kw_only=True)
class Period:
    """A period of the labelled windows, with the share of each class."""

    first: str
    last: str
    num_windows: int
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importance of a feature: the rise of the log-loss when its values are shuffled."""

    feature: str
    rise: float
    spread: float


def label_balance(
    y: ArrayLike, times: ArrayLike, num_classes: int, *, num_periods: int = _PERIODS
) -> tuple[Period, ...]:
    """Return the class shares over periods with equally many windows, in time order.

    Parameters
    ----------
    y, times
        Class indices and times of the windows, shape (n,), in time order.
    num_classes
        K.
    num_periods
        Number of periods, at most the number of windows.

    Raises
    ------
    BadInput
        If there is no window, or the shapes differ.
    """
    labels, clock = np.asarray(y), np.asarray(times)
    if not labels.size or labels.shape != clock.shape:
        raise BadInput(
            f"y and times have shapes {labels.shape} and {clock.shape}",
            limit="one shape (n,), n at least 1",
        )
    pieces = np.array_split(np.arange(labels.size), min(num_periods, labels.size))
    return tuple(
        Period(
            first=str(clock[rows[0]])[:10],
            last=str(clock[rows[-1]])[:10],
            num_windows=len(rows),
            shares=tuple(np.bincount(labels[rows], minlength=num_classes) / len(rows)),
        )
        for rows in pieces
    )


def shuffled_importance(
    model: Any, matrix: NDArray[np.floating], y: ArrayLike, names: Sequence[str], *, seed: int
) -> tuple[Importance, ...]:
    """Return the permutation importance of each feature (Breiman, 2001), in descending order.

    Parameters
    ----------
    model
        A fitted scikit-learn classifier of rows of features.
    matrix, y
        Windows the model was not fitted on: shape (n, d) and (n,).
    names
        Names of the d features.
    seed
        Seed of the shuffling.
    """
    from sklearn.inspection import permutation_importance

    importance = permutation_importance(
        model, matrix, y, scoring="neg_log_loss", n_repeats=20, random_state=seed
    )
    rows = zip(names, importance.importances_mean, importance.importances_std, strict=True)
    unsorted = [Importance(feature=n, rise=float(m), spread=float(s)) for n, m, s in rows]
    return tuple(sorted(unsorted, key=lambda item: -item.rise))


def investigation_markdown(
    control: GateReport,
    *,
    title: str,
    class_names: Sequence[str],
    balance: Sequence[Period],
    pictures: Mapping[str, str],
    audit: AuditTrail,
    importance: Sequence[Importance],
) -> str:
    """Return the page about a failed gate 2.

    Parameters
    ----------
    control
        The report of gate 2.
    title
        The candidate's name.
    class_names
        K names.
    balance
        From `label_balance`.
    pictures
        File by caption, relative to the page: the windows with the largest disagreement.
    audit
        The repeated audit.
    importance
        From `shuffled_importance`.
    """
    sections = [
        f"# Investigation: a control beats {title}",
        "\n".join(f"- {sentence(reason)}" for reason in control.reasons),
        "## Labels by time\n\n" + _balance(balance, class_names),
        "## Windows disagreed on most\n\n"
        + "\n\n".join(f"![candles]({path})\n\n{text}" for text, path in pictures.items()),
        "## Leaks: the audit, made again\n\n" + _audit(audit),
        "## What the features are worth\n\n" + _importance(importance),
        "## Questions to answer before training further\n\n" + _questions(balance, audit),
    ]
    return "\n\n".join(sections) + "\n"


def _balance(balance: Sequence[Period], names: Sequence[str]) -> str:
    return markdown_table(
        ("from", "to", "windows", *names),
        [(p.first, p.last, p.num_windows, *(f"{s:.0%}" for s in p.shares)) for p in balance],
    )


def _audit(audit: AuditTrail) -> str:
    failures = [check for check in audit.checks if not check.passed]
    if not failures:
        return f"{len(audit.checks)} checks, all passed: no leak is known."
    return "\n".join(f"- **{check.name}** failed: {check.detail}" for check in failures)


def _importance(importance: Sequence[Importance]) -> str:
    rows = [(i.feature, f"{i.rise:+.4f}", f"{i.spread:.4f}") for i in importance]
    return (
        "Rise of the logistic regression's log-loss on validation windows when one feature is "
        "shuffled (20 times; mean and standard deviation). Near 0: not needed.\n\n"
        + markdown_table(("feature", "rise", "spread"), rows)
    )


def _questions(balance: Sequence[Period], audit: AuditTrail) -> str:
    shares = np.array([period.shares for period in balance])
    drift = float(np.ptp(shares, axis=0).max())
    lines = [
        f"Do the labels drift? The share of a class moves by up to {drift:.0%} between periods.",
        "Are the windows above labelled as an expert would label them?",
        "Does one feature carry the control? Then the label may be a rule on it.",
        "Is the network trained long enough, and stopped on windows like those it is judged on?",
    ]
    if not audit.passed:
        lines.insert(0, "Mend the failed audit checks first: no figure counts until then.")
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1))
