"""Leak checks: where a result comes from that is too good to be true.

Each check answers one question with figures, and says whether they show a leak: True, False, or
None where it cannot be computed. They use a cheap learner, so that a check costs seconds: what
leaks is mostly so plain that a logistic regression finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.evaluation.metrics import compute_metrics

Windows = NDArray[np.floating]
AGES = ((0, 1), (1, 3), (3, 6), (6, 12), (12, 24), (24, 48), (48, None))  # bars before the end
_SIGNAL = 0.2  # ROC-AUC above one half: less than that a label's own arithmetic may give
_UNLIKE = 0.1  # difference of the ROC-AUC of two halves that luck does not explain
_MOST = 0.9  # of labels that agree with a rule
_CARRIED = 0.75  # of what is above one half, by the last H bars
_NEAREST_BARS = 12


@dataclass(frozen=True, kw_only=True)
class LeakCheck:
    """What a check found: its question, whether it shows a leak, and the figures in words."""

    question: str
    leak: bool | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return asdict(self)


class CheapLearner:
    """A logistic regression on features of windows, fitted to the first half of them.

    Parameters
    ----------
    y
        Class indices, shape (n,), in time order.
    apart
        Windows left out between the halves, so that no bar is in both.
    features
        Turns windows, shape (n, T, 4), into rows of numbers.
    """

    def __init__(self, y: ArrayLike, *, apart: int, features: Callable[[Windows], NDArray]):
        self.y = np.asarray(y, dtype=np.intp)
        half = len(self.y) // 2
        self.train = np.arange(max(1, half - apart))
        self.test = np.arange(half, len(self.y))
        self.features = features

    def predictions(self, matrix: NDArray, changed: NDArray | None = None) -> NDArray[np.float64]:
        """Fit to the train half of rows and answer the test half, or `changed` in its place."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(matrix[self.train], self.y[self.train])
        proba = np.full((len(self.test), int(self.y.max()) + 1), 1e-9)
        proba[:, model.classes_] = model.predict_proba(
            matrix[self.test] if changed is None else changed
        )
        return proba / proba.sum(axis=1, keepdims=True)

    def area(self, matrix: NDArray, changed: NDArray | None = None) -> float:
        """Return the ROC-AUC of `predictions`; 0.5 where it is undefined."""
        return area_of(self.y[self.test], self.predictions(matrix, changed))


def area_of(y: NDArray[np.intp], proba: NDArray[np.float64]) -> float:
    """Return the macro ROC-AUC; 0.5 where it is undefined."""
    if len(np.unique(y)) < 2:
        return 0.5
    found = compute_metrics(y, proba)["roc_auc"]
    return 0.5 if found is None else float(found)


def lag_check(
    learner: CheapLearner, lagged: Mapping[int, Windows], *, horizon_bars: int
) -> LeakCheck:
    """Ask whether knowledge survives if the windows end some bars earlier.

    Parameters
    ----------
    learner
        Of the labels.
    lagged
        The windows, shape (n, T, 4), by how many bars earlier they end; 0 among them.
    horizon_bars
        H: a window that sees what its label looks at sees it in its last H bars.

    Returns
    -------
    LeakCheck
        A leak where an ROC-AUC of at least 0.7 loses more than half of what it has above 0.5 within
        H bars.
    """
    question = "lag the features by a bar and more: does the knowledge survive?"
    if len(lagged) < 2:
        return LeakCheck(
            question=question, leak=None, detail="there are no bars to cut earlier windows from"
        )
    areas = {k: learner.area(learner.features(X)) for k, X in sorted(lagged.items())}
    excess = areas[0] - 0.5
    noise = 2.0 / np.sqrt(3.0 * len(learner.test))  # two standard errors without information
    gone = {k for k, a in areas.items() if a - 0.5 < excess / 2 and areas[0] - a > noise}
    # what leaks is gone for good once its bars are; what is known of a market fades
    lost = [k for k in areas if 0 < k <= horizon_bars and gone >= {m for m in areas if m >= k}]
    leak = excess >= _SIGNAL and bool(lost)
    words = ", ".join(f"{k} bars {a:.3f}" for k, a in areas.items())
    told = (
        f": half of it is in the last {lost[0]} bars of the window, as if they belonged to what "
        "the label looks at (a clock that is early, or a column that is shifted)"
        if leak
        else ""
    )
    return LeakCheck(question=question, leak=leak, detail=f"ROC-AUC at a lag of {words}{told}")


def horizon_check(
    y: NDArray[np.intp],
    proba: NDArray[np.float64],
    permuted: NDArray[np.intp] | None,
    why: str,
    *,
    bound: float,
) -> LeakCheck:
    """Ask whether the label depends on the horizon at all.

    Parameters
    ----------
    y, proba
        Labels and predictions of windows the learner was not fitted to.
    permuted
        Their labels after each window got the horizon of another; None: no rule makes them.
    why
        Why there are none.
    bound
        ROC-AUC above which the window decides the label; what is below it may be the label's own
        arithmetic, which gate 1 subtracts.
    """
    question = "permute the horizon: is the label made of what follows the window?"
    if permuted is None:
        return LeakCheck(question=question, leak=None, detail=why)
    real, other = area_of(y, proba), area_of(permuted, proba)
    leak = other > bound
    told = ": the label is decided by the window, whatever follows it" if leak else ""
    return LeakCheck(
        question=question,
        leak=leak,
        detail=f"ROC-AUC {real:.3f}, with the horizon of another window {other:.3f}{told}",
    )


def offset_check(agreement: Mapping[tuple[str, int], float]) -> LeakCheck:
    """Ask whether labels from a file are those of a rule some bars earlier.

    `agreement` is the share of windows, by rule and by how many bars after the window's last bar
    the rule begins; 0 is right.
    """
    question = "labels of a file: is there a rule that gives them inside the window?"
    if not agreement:
        return LeakCheck(question=question, leak=None, detail="no rule has as many classes")
    (rule, offset), share = max(agreement.items(), key=lambda item: item[1])
    leak = offset < 0 and share >= _MOST
    told = f": they look at bars that the window holds; the clock is {-offset} bars early"
    return LeakCheck(
        question=question,
        leak=leak,
        detail=f"nearest is {rule} begun {offset:+d} bars from the window's end, the same in "
        f"{share:.1%} of the windows{told if leak else ''}",
    )


def halves_check(y: NDArray[np.intp], proba: NDArray[np.float64], *, bound: float) -> LeakCheck:
    """Ask whether the knowledge is in the first and in the second half alike."""
    half = len(y) // 2
    first, second = area_of(y[:half], proba[:half]), area_of(y[half:], proba[half:])
    leak = max(first, second) > bound and abs(first - second) > _UNLIKE
    told = ": a part of the data is not like the other" if leak else ""
    return LeakCheck(
        question="compare the first with the second half: is it the same knowledge?",
        leak=leak,
        detail=f"ROC-AUC {first:.3f} and {second:.3f}{told}",
    )


def age_check(
    learner: CheapLearner, X: Windows, *, horizon_bars: int, bound: float, seed: int
) -> LeakCheck:
    """Ask how old the bars are that carry the knowledge.

    The changes of the bars of one age are exchanged between windows, the rest stays: what the
    ROC-AUC loses, these bars carried. A leak is shown where it is above `bound` and the last H bars
    carry three quarters of what is above one half.
    """
    matrix = learner.features(X)
    whole = learner.area(matrix)
    rng = np.random.default_rng(seed)
    test = np.asarray(X[learner.test], dtype=np.float64)
    ages = [(a, b) for a, b in AGES if a < X.shape[1]]
    lost = {}
    for youngest, oldest in (*ages, (0, horizon_bars)):
        changed = _exchanged(test, youngest, oldest, rng.permutation(len(test)))
        lost[(youngest, oldest)] = whole - learner.area(matrix, learner.features(changed))
    carried = lost[(0, horizon_bars)] / max(whole - 0.5, 1e-9)
    leak = whole > bound and carried >= _CARRIED
    words = ", ".join(f"{a}-{'' if b is None else b - 1} {lost[(a, b)]:+.3f}" for a, b in ages)
    told = f": the last {horizon_bars} bars carry {carried:.0%} of it" if leak else ""
    return LeakCheck(
        question="importance by age: how long before the window's end are the bars that matter?",
        leak=leak,
        detail=f"ROC-AUC {whole:.3f}; lost when bars of an age (bars before the end) are "
        f"exchanged: {words}{told}",
    )


def feature_check(
    learner: CheapLearner, stored: NDArray, derived: NDArray, names: Sequence[str], *, bound: float
) -> LeakCheck:
    """Ask whether one stored feature is the label, or is not made of its window."""
    odd = [n for n, same in zip(names, np.isclose(stored, derived, atol=1e-5).all(0), strict=True)
           if not same]  # fmt: skip
    areas = {n: learner.area(stored[:, [k]]) for k, n in enumerate(names)}
    best = max(areas, key=lambda n: areas[n])
    leak = bool(odd) or areas[best] > bound
    told = f"; not made of their windows: {', '.join(odd)}" if odd else ""
    return LeakCheck(
        question="one feature alone: is it the label?",
        leak=leak,
        detail=f"the best is {best}, ROC-AUC {areas[best]:.3f} alone{told}",
    )


def continuity_check(ohlc: NDArray[np.floating]) -> LeakCheck:
    """Ask whether each bar opens where the one before closed, or a column is shifted.

    Parameters
    ----------
    ohlc
        Bars, shape (N, 4), or windows, shape (n, T, 4).
    """
    logs = np.log(np.asarray(ohlc, dtype=np.float64))
    open_, close = logs[..., 0], logs[..., 3]
    T = open_.shape[-1]
    reach = min(_NEAREST_BARS, T - 2)
    apart = {
        k: float(np.mean(np.abs(open_[..., max(k, 0) : T + min(k, 0)]
                                - close[..., max(-k, 0) : T + min(-k, 0)])))
        for k in range(-reach, reach + 1)
    }  # fmt: skip
    best = min(apart, key=lambda k: apart[k])
    leak = best != 1 and apart[best] < apart[1] / 2
    off = f"{abs(best - 1)} bars {'early' if best > 1 else 'late'}"
    told = f": beside the opens the closes come {off}" if leak else ""
    return LeakCheck(
        question="continuity: does a bar open where the one before closed?",
        leak=leak,
        detail=f"a close is nearest to the open {best} bars later, {apart[best]:.2g} apart on "
        f"average; to the next open {apart[1]:.2g}{told}",
    )


def repairs_check(share: float | None, most: float) -> LeakCheck:
    """Ask whether repairs changed more of the bars than a few faults explain."""
    question = "repairs: how many rows of the bar file did they touch?"
    if share is None:
        return LeakCheck(question=question, leak=None, detail="no quality report says it")
    return LeakCheck(
        question=question, leak=share > most, detail=f"{share:.1%}, at most {most:.0%}"
    )


def _exchanged(
    X: NDArray[np.float64], youngest: int, oldest: int | None, order: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Give each window another's bars of an age, scaled to go on where its own bars end."""
    T = X.shape[1]
    begin, end = 0 if oldest is None else max(0, T - oldest), T - youngest
    logs = np.log(X)
    opening = logs[:, begin : begin + 1, :1]
    block = logs[order, begin:end] - opening[order]
    made = logs.copy()
    made[:, begin:end] = block + opening
    moved = (made[:, end - 1, 3] - logs[:, end - 1, 3])[:, None, None]
    made[:, end:] = logs[:, end:] + moved
    return np.exp(made)
