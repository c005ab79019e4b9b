"""Gate 1 end to end: random walks must not pass, planted signals should; what labels give away.

Bars are simulated, cut into windows, split into walk-forward folds, predicted out of sample by
cheap candidates and judged by the rule that `moola evaluate` uses, surrogate null included (`moola
bench walks`). Resamples are fewer than in a report: only PR-AUC and ECE need them, no verdict here.

- Random walks: each bar is 24 steps of a Gaussian walk. Nothing can be known of its future.
- Planted signals: the walk's volatility follows exp(a h), h an AR(1) series of 0.97 a bar, for
  three sizes a. How often each is found is printed beside what the reports promise: the power for
  a true difference as large as the mean gain over the label's own arithmetic in all seeds.
- `--labels-only`: ROC-AUC of every label rule on one long random walk, by a logistic regression on
  the 20 features and on these with the four ratios of `moola.data.surrogate.scale_ratios`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moola.config.data import SplitRecipe, WindowRecipe
from moola.config.evaluation import Thresholds
from moola.config.training import FinetuneConfig
from moola.data.bars import Bars
from moola.data.features import features20
from moola.data.labels import label_windows
from moola.data.splits import WalkForward
from moola.data.store.data_store import DataStore, WindowSet
from moola.data.surrogate import scale_ratios
from moola.data.windows import choose_starts, cut_windows
from moola.evaluation.gates import GateContext, gate_1_baseline
from moola.evaluation.gates.report import GateReport
from moola.judging.calibrate import overlap_of
from moola.judging.null import label_arithmetic
from moola.training.crossval import Trainee, WalkForwardPredictions, walk_forward_predictions

STEPS = 24
MEMORY = 0.97
VOLATILITY = 0.003
LABELS = ("expansion", "expansion_direction", "triple_barrier")
ALL_LABELS = (*LABELS, "expansion_expected", "expansion_past", "expansion_rank")
SIZES = (0.1, 0.2, 0.3)
RATIOS = "logreg and ratios"


def walk(seed: int, num_bars: int, size: float = 0.0) -> Bars:
    """Draw bars of a Gaussian walk whose log volatility is `size` times an AR(1) series."""
    rng = np.random.default_rng(seed)
    h = np.zeros(num_bars)
    shocks = rng.standard_normal(num_bars) * np.sqrt(1 - MEMORY**2) if size else h
    for k in range(1, num_bars if size else 1):
        h[k] = MEMORY * h[k - 1] + shocks[k]
    scale = VOLATILITY / np.sqrt(STEPS) * np.exp(size * h)[:, None]
    path = np.cumsum((rng.standard_normal((num_bars, STEPS)) * scale).ravel())
    path = path.reshape(num_bars, STEPS)
    path = np.concatenate([np.r_[0.0, path[:-1, -1]][:, None], path], axis=1)
    logs = np.stack([path[:, 0], path.max(axis=1), path.min(axis=1), path[:, -1]], axis=1)
    time = np.datetime64("2015-01-01", "us") + np.arange(num_bars) * np.timedelta64(3600, "s")
    return Bars(name="walk", time=time, ohlc=100.0 * np.exp(logs), sha256="")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A market, a label and its horizon."""

    label: str
    horizon_bars: int
    size: float = 0.0


def verdicts(
    case: Case, seed: int, num_judged: int, candidates: list[str], folder: Path
) -> dict[str, GateReport]:
    """Run one market through the product and return Gate 1 of each candidate."""
    recipe = WindowRecipe(source="walk", label=case.label, horizon_bars=case.horizon_bars)
    num_windows = round(num_judged * 8 / 5) + 30  # five of eight parts are judged
    num_bars = recipe.window_bars + case.horizon_bars + recipe.step_bars * num_windows
    bars = walk(seed, num_bars, case.size)
    (folder / "bars").mkdir()
    columns = dict(zip(("open", "high", "low", "close"), bars.ohlc.T, strict=True))
    table = pa.table({"timestamp": pa.array(bars.time).cast(pa.timestamp("us", "UTC")), **columns})
    pq.write_table(table, folder / "bars" / "walk.parquet")
    registry = DataStore(folder)
    labeled = registry.build_set("labeled_windows/walk", recipe)
    split = SplitRecipe(labeled=labeled.name, strategy="walk_forward", num_folds=5)
    folds = registry.build_split("walk_forward_walk", split)
    assert isinstance(folds, WalkForward)
    trained = [c for c in candidates if c != RATIOS]
    made = walk_forward_predictions(
        {c: Trainee(config=FinetuneConfig(model=c, labeled=labeled.name), seeds=(17,))
         for c in trained},
        labeled, folds, device="cpu", cache=folder / "cache",
    )  # fmt: skip
    first = made[trained[0]]
    limits = replace(Thresholds.load(), num_resamples=100)
    null = label_arithmetic(
        registry, labeled, first.rows, num_surrogates=limits.num_surrogates, seed=17
    )
    context = GateContext(**overlap_of(labeled.times, first.rows), thresholds=limits)
    probabilities = {name: found.proba for name, found in made.items()}
    if RATIOS in candidates:
        probabilities[RATIOS] = _by_ratios(labeled, folds, first)
    return {
        name: gate_1_baseline(
            first.y, proba, first.prior, context=context, arithmetic=null,
        )
        for name, proba in probabilities.items()
    }  # fmt: skip


def _by_ratios(labeled: WindowSet, folds: WalkForward, found: WalkForwardPredictions) -> np.ndarray:
    """Predict the folds by a logistic regression that sees best how the threshold errs."""
    assert labeled.y is not None
    X = np.asarray(labeled.X_ohlc)
    matrix = np.column_stack([features20(X), scale_ratios(X, labeled.recipe.horizon_bars)])
    parts = []
    for fold in folds.folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(matrix[fold.train], labeled.y[fold.train])
        parts.append(model.predict_proba(matrix[fold.val]))
    assert sum(map(len, parts)) == len(found.y)
    return np.concatenate(parts)


def show(title: str, reports: dict[str, list[GateReport]]) -> None:
    """Print how often each candidate passed, with the exact interval, and what was promised."""
    for candidate, found in reports.items():
        n, k = len(found), sum(r.verdict in ("passed", "held") for r in found)
        low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
        high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
        without = sum(_alone(r) for r in found)
        gains = [-r.figures["delta_label_arithmetic"]["estimate"] for r in found]
        gain = float(np.mean(gains))
        promise = np.mean([_power(r, gain) for r in found])
        area = np.mean([r.figures["metrics"]["roc_auc"] for r in found])
        print(
            f"| {title} | {candidate} | {area:.3f} | {without} of {n} | {k} of {n} "
            f"[{100 * low:.0f} %, {100 * high:.0f} %] | {gain:+.4f} | {promise:.0%} |",
            flush=True,
        )


def _alone(found: GateReport) -> bool:
    """Whether the gate would pass without the surrogate null."""
    ends = [found.figures[key]["high"] for key in ("delta_log_loss", "delta_slow_constant")]
    return all(end is not None and end < 0 for end in ends)


def _power(found: GateReport, gain: float) -> float:
    """Return the promised power at a gain, between the sizes that the report states."""
    power: dict[str, Any] = found.figures["power_label_arithmetic"]
    if gain <= 0 or not power:
        return 0.0
    sizes = [0.0, *map(float, power)]
    return float(np.interp(gain, sizes, [0.025, *power.values()]))


def show_labels(num_bars: int) -> None:
    """Print the ROC-AUC of every label rule on a random walk."""
    print("| label | H | the 20 features | and the four ratios |\n|---|---:|---:|---:|")
    bars = walk(1, num_bars)
    for label in ALL_LABELS:
        for horizon in (6, 24):
            recipe = WindowRecipe(source="walk", label=label, horizon_bars=horizon)
            starts, _ = choose_starts(bars, recipe)
            y = label_windows(bars, starts, recipe).y
            X = cut_windows(bars, starts, recipe.window_bars)
            plain = features20(X)
            both = np.column_stack([plain, scale_ratios(X, horizon)])
            areas = [_auc(matrix, y) for matrix in (plain, both)]
            print(f"| `{label}` | {horizon} | {areas[0]:.3f} | {areas[1]:.3f} |", flush=True)


def _auc(matrix: np.ndarray, y: np.ndarray) -> float:
    half, gap = len(y) // 2, 25
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(matrix[: half - gap], y[: half - gap])
    proba = model.predict_proba(matrix[half:])
    return float(
        np.mean([roc_auc_score(y[half:] == k, proba[:, k]) for k in range(proba.shape[1])])
    )


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--judged", type=int, default=2000, help="windows that are judged")
    parser.add_argument("--horizon-bars", type=int, default=6)
    parser.add_argument("--candidates", nargs="+", default=["logreg", "minirocket", RATIOS])
    parser.add_argument("--labels", nargs="+", default=list(LABELS))
    parser.add_argument("--sizes", nargs="*", type=float, default=list(SIZES))
    parser.add_argument("--labels-only", action="store_true")
    parser.add_argument("--bars", type=int, default=240_000, help="of --labels-only")
    given = parser.parse_args()
    if given.labels_only:
        show_labels(given.bars)
        return
    horizon = given.horizon_bars
    cases = {f"random walk, `{x}`": Case(label=x, horizon_bars=horizon) for x in given.labels}
    cases |= {
        f"planted, a = {a:g}": Case(label="expansion", horizon_bars=horizon, size=a)
        for a in given.sizes
    }
    print("| market | candidate | ROC-AUC | without the null | passes | gain, nats | promised |")
    print("|---|---|---:|---|---|---:|---:|")
    for title, case in cases.items():
        reports: dict[str, list[GateReport]] = {}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found = verdicts(case, seed, given.judged, given.candidates, Path(folder))
            for name, report in found.items():
                reports.setdefault(name, []).append(report)
        show(title, reports)


if __name__ == "__main__":
    main()
