"""Leak checks: the origin of a result that is too good to be true.

Each check answers one question with figures, and states whether they show a leak: True, False, or
None if it cannot be computed. A cheap learner keeps each check to seconds; most leaks are so plain
that a logistic regression finds them.
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
_MIN_EXCESS = 0.2  # ROC-AUC above 1/2; the label's own arithmetic may explain a smaller excess
_MAX_GAP = 0.1  # between the ROC-AUC of the two halves; chance does not explain a larger one
_MIN_AGREEMENT = 0.9  # share of labels that a rule reproduces
_MIN_CARRIED = 0.75  # share of the excess that the last H bars carry
_MAX_SHIFT_BARS = 12


@dataclass(frozen=True, kw_only=True)
class LeakCheck:
    """The result of a check: its question, whether it shows a leak, and the figures in words."""

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
        Number of windows left out between the halves, so that they share no bar.
    features
        Maps windows, shape (n, T, 4), to rows of numbers.
    """

    def __init__(self, y: ArrayLike, *, apart: int, features: Callable[[Windows], NDArray]):
        self.y = np.asarray(y, dtype=np.intp)
        half = len(self.y) // 2
        self.train = np.arange(max(1, half - apart))
        self.test = np.arange(half, len(self.y))
        self.features = features

    def predictions(self, matrix: NDArray, changed: NDArray | None = None) -> NDArray[np.float64]:
        """Fit to the train half and predict the test half, or `changed` in its place."""
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
        """Return the ROC-AUC of `predictions`; 0.5 if undefined."""
        return area_of(self.y[self.test], self.predictions(matrix, changed))


def area_of(y: NDArray[np.intp], proba: NDArray[np.float64]) -> float:
    """Return the macro ROC-AUC; 0.5 if undefined."""
    if len(np.unique(y)) < 2:
        return 0.5
    area = compute_metrics(y, proba)["roc_auc"]
    return 0.5 if area is None else float(area)


def lag_check(
    learner: CheapLearner, lagged: Mapping[int, Windows], *, horizon_bars: int
) -> LeakCheck:
    """Check whether the knowledge survives if the windows end some bars earlier.

    Parameters
    ----------
    learner
        With the labels.
    lagged
        The windows, shape (n, T, 4), by the number of bars they end earlier, 0 included.
    horizon_bars
        H: a window that contains its label's horizon does so in its last H bars.

    Returns
    -------
    LeakCheck
        A leak if an ROC-AUC of at least 0.7 loses more than half of its excess over 0.5 within H
        bars.
    """
    question = "lag the features by a bar and more: does the knowledge survive?"
    if len(lagged) < 2:
        return LeakCheck(
            question=question, leak=None, detail="there are no bars to cut earlier windows from"
        )
    areas = {k: learner.area(learner.features(X)) for k, X in sorted(lagged.items())}
    excess = areas[0] - 0.5
    noise = 2.0 / np.sqrt(3.0 * len(learner.test))  # two standard errors without information
    weak = {k for k, a in areas.items() if a - 0.5 < excess / 2 and areas[0] - a > noise}
    # A leak disappears for good with its bars; real knowledge of a market fades gradually.
    lost_from = [k for k in areas if 0 < k <= horizon_bars and weak >= {m for m in areas if m >= k}]
    leak = excess >= _MIN_EXCESS and bool(lost_from)
    words = ", ".join(f"{k} bars {a:.3f}" for k, a in areas.items())
    remark = (
        f": half of it is in the last {lost_from[0]} bars of the window, as if they belonged to "
        "what the label looks at (a clock that is early, or a column that is shifted)"
        if leak
        else ""
    )
    return LeakCheck(question=question, leak=leak, detail=f"ROC-AUC at a lag of {words}{remark}")


def horizon_check(
    y: NDArray[np.intp],
    proba: NDArray[np.float64],
    permuted: NDArray[np.intp] | None,
    why: str,
    *,
    bound: float,
) -> LeakCheck:
    """Check whether the label depends on the horizon at all.

    Parameters
    ----------
    y, proba
        Labels and predictions of windows the learner was not fitted to.
    permuted
        Labels after the horizons were permuted between windows; None if no rule makes them.
    why
        The reason if there are none.
    bound
        ROC-AUC above which the window determines the label; below it the label's own arithmetic,
        for which gate 1 corrects, may be the explanation.
    """
    question = "permute the horizon: is the label made of what follows the window?"
    if permuted is None:
        return LeakCheck(question=question, leak=None, detail=why)
    real, other = area_of(y, proba), area_of(permuted, proba)
    leak = other > bound
    remark = ": the label is decided by the window, whatever follows it" if leak else ""
    return LeakCheck(
        question=question,
        leak=leak,
        detail=f"ROC-AUC {real:.3f}, with the horizon of another window {other:.3f}{remark}",
    )


def offset_check(agreement: Mapping[tuple[str, int], float]) -> LeakCheck:
    """Check whether labels from a file are those of a rule some bars earlier.

    `agreement` is the share of equal labels by rule and offset, the number of bars after the
    window's last bar at which the rule starts; 0 is correct.
    """
    question = "labels of a file: is there a rule that gives them inside the window?"
    if not agreement:
        return LeakCheck(question=question, leak=None, detail="no rule has as many classes")
    (rule, offset), share = max(agreement.items(), key=lambda item: item[1])
    leak = offset < 0 and share >= _MIN_AGREEMENT
    remark = f": they look at bars that the window holds; the clock is {-offset} bars early"
    return LeakCheck(
        question=question,
        leak=leak,
        detail=f"nearest is {rule} begun {offset:+d} bars from the window's end, the same in "
        f"{share:.1%} of the windows{remark if leak else ''}",
    )


def halves_check(y: NDArray[np.intp], proba: NDArray[np.float64], *, bound: float) -> LeakCheck:
    """Check whether both halves of the windows show the same knowledge."""
    half = len(y) // 2
    first, second = area_of(y[:half], proba[:half]), area_of(y[half:], proba[half:])
    leak = max(first, second) > bound and abs(first - second) > _MAX_GAP
    remark = ": a part of the data is not like the other" if leak else ""
    return LeakCheck(
        question="compare the first with the second half: is it the same knowledge?",
        leak=leak,
        detail=f"ROC-AUC {first:.3f} and {second:.3f}{remark}",
    )


def age_check(
    learner: CheapLearner, X: Windows, *, horizon_bars: int, bound: float, seed: int
) -> LeakCheck:
    """Check the age of the bars that carry the knowledge.

    The price changes of bars of one age are permuted between windows; the loss of ROC-AUC is what
    these bars carry. It is a leak if the ROC-AUC is above `bound` and the last H bars carry three
    quarters of its excess over one half.
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
    leak = whole > bound and carried >= _MIN_CARRIED
    words = ", ".join(f"{a}-{'' if b is None else b - 1} {lost[(a, b)]:+.3f}" for a, b in ages)
    remark = f": the last {horizon_bars} bars carry {carried:.0%} of it" if leak else ""
    return LeakCheck(
        question="importance by age: how long before the window's end are the bars that matter?",
        leak=leak,
        detail=f"ROC-AUC {whole:.3f}; lost when bars of an age (bars before the end) are "
        f"exchanged: {words}{remark}",
    )


def feature_check(
    learner: CheapLearner, stored: NDArray, derived: NDArray, names: Sequence[str], *, bound: float
) -> LeakCheck:
    """Check whether a stored feature is the label, or does not derive from its window."""
    odd = [n for n, same in zip(names, np.isclose(stored, derived, atol=1e-5).all(0), strict=True)
           if not same]  # fmt: skip
    areas = {n: learner.area(stored[:, [k]]) for k, n in enumerate(names)}
    best = max(areas, key=lambda n: areas[n])
    leak = bool(odd) or areas[best] > bound
    remark = f"; not made of their windows: {', '.join(odd)}" if odd else ""
    return LeakCheck(
        question="one feature alone: is it the label?",
        leak=leak,
        detail=f"the best is {best}, ROC-AUC {areas[best]:.3f} alone{remark}",
    )


def continuity_check(ohlc: NDArray[np.floating]) -> LeakCheck:
    """Check whether each bar opens at the close before it, or a column is shifted.

    Parameters
    ----------
    ohlc
        Bars, shape (N, 4), or windows, shape (n, T, 4).
    """
    logs = np.log(np.asarray(ohlc, dtype=np.float64))
    open_, close = logs[..., 0], logs[..., 3]
    T = open_.shape[-1]
    max_shift = min(_MAX_SHIFT_BARS, T - 2)
    distance = {
        k: float(np.mean(np.abs(open_[..., max(k, 0) : T + min(k, 0)]
                                - close[..., max(-k, 0) : T + min(-k, 0)])))
        for k in range(-max_shift, max_shift + 1)
    }  # fmt: skip
    best = min(distance, key=lambda k: distance[k])
    leak = best != 1 and distance[best] < distance[1] / 2
    shift = f"{abs(best - 1)} bars {'early' if best > 1 else 'late'}"
    remark = f": beside the opens the closes come {shift}" if leak else ""
    return LeakCheck(
        question="continuity: does a bar open where the one before closed?",
        leak=leak,
        detail=f"a close is nearest to the open {best} bars later, {distance[best]:.2g} apart on "
        f"average; to the next open {distance[1]:.2g}{remark}",
    )


def repairs_check(share: float | None, most: float) -> LeakCheck:
    """Check whether repairs changed more bars than a few faults explain."""
    question = "repairs: how many rows of the bar file did they touch?"
    if share is None:
        return LeakCheck(question=question, leak=None, detail="no quality report says it")
    return LeakCheck(
        question=question, leak=share > most, detail=f"{share:.1%}, at most {most:.0%}"
    )


def _exchanged(
    X: NDArray[np.float64], youngest: int, oldest: int | None, order: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Replace each window's bars of one age by another window's, scaled to its own prices."""
    T = X.shape[1]
    begin, end = 0 if oldest is None else max(0, T - oldest), T - youngest
    logs = np.log(X)
    opening = logs[:, begin : begin + 1, :1]
    block = logs[order, begin:end] - opening[order]
    exchanged = logs.copy()
    exchanged[:, begin:end] = block + opening
    moved = (exchanged[:, end - 1, 3] - logs[:, end - 1, 3])[:, None, None]
    exchanged[:, end:] = logs[:, end:] + moved
    return np.exp(exchanged)
