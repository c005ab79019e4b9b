"""Simulation study of the gates: how often they pass when they should not, and when they should.

    python benchmarks/gate_simulation.py --reps 400 --jobs 1 --out gate_simulation.md

Windows are correlated in time: a model sees x = (2y - 1) d / 2 + e with e an AR(1) process of unit
variance, y the sign of another AR(1) process, and answers with the exact posterior, so that it is
perfectly calibrated and right with probability Phi(d / 2). Two models share 70 % of their noise.
Blocks are as long as it takes the correlation to fall to 5 %.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import beta, norm

from moola.config.evaluation import Thresholds
from moola.evaluation.calibration import ece_null
from moola.evaluation.gates import (
    GateReport,
    gate_1_baseline,
    gate_2_control,
    gate_4_transfer,
    gate_5_augmentation,
    gate_6_simple,
    gate_7_ensemble,
    gate_promotion,
)
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.resampling import resample_counts

PARTS = ("baseline", "rivals", "constants")
SIZES = (20, 50, 100, 300)
PHIS = (0.5, 0.8)
ACCURACY = 0.60
SHARED = 0.7
LOADED = {
    "load_report": {"match_ratio_encoder": 1.0, "num_mismatched": 0},
    "schedule_proof": {"proven": True},
}
PASSED = dict.fromkeys(range(8), "passed")
ROWS = {
    "Passes that should not happen (limit 5 %)": {
        "Gate 1, overconfident, log-loss exactly the prior's": "gate 1 null",
        "Gate 1, pure noise": "gate 1 noise",
        "Gate 2, control equal: false STOP": "gate 2 stop null",
        "Gate 4, transfer equal to scratch": "gate 4 null",
        "Gate 5, exactly 2 points worse": "gate 5 null",
        "Gate 6, equal": "gate 6 null",
        "Gate 7, worse by exactly the margin": "gate 7 null",
        "Promotion, equal to the champion": "promotion null",
        "Promotion, log-loss exactly the class prior's": "prior null",
        "*For comparison: percentile interval of log-loss*": "percentile null",
    },
    "Passes that should happen (power)": {
        "Gate 1, 5 points above chance": "gate 1 +5",
        "Gate 1, 10 points above chance": "gate 1 +10",
        "Gate 1, 15 points above chance": "gate 1 +15",
        "Gate 2, control +5 points: STOP": "gate 2 stop +5",
        "Gate 2, control +10 points: STOP": "gate 2 stop +10",
        "Gate 4, +5 points": "gate 4 +5",
        "Gate 4, +10 points": "gate 4 +10",
        "Gate 5, equal": "gate 5 equal",
        "Gate 6, +5 points": "gate 6 +5",
        "Gate 6, +10 points": "gate 6 +10",
        "Gate 7, equal": "gate 7 equal",
        "Promotion, +5 points": "promotion +5",
        "Promotion, +10 points": "promotion +10",
        "Promotion, class prior, 10 points above chance": "prior +10",
    },
    "Perfectly calibrated models": {
        "Gate 4 not passed for ECE alone, equal": "gate 4 ece null",
        "Gate 4 not passed for ECE alone, +10 points": "gate 4 ece +10",
        "ECE above its null's 95th percentile (no gate refuses for it)": "ece above null",
    },
    "Constant and nearly constant models: passes of Gate 1": {
        name: name
        for name in (
            "constant majority",
            "constant minority",
            "constant, jitter .01",
            "coin, jitter .01",
            "minority in 2 %",
            "constant by fold",
        )
    },
}
Array = NDArray[np.float64]


def main() -> None:
    """Parse, simulate, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gate_simulation.md"))
    args = parser.parse_args()
    started = time.perf_counter()
    tallies = {}
    for phi in PHIS:
        for num_windows in args.sizes:
            tallies[phi, num_windows] = tally(phi, num_windows, args)
            seconds = time.perf_counter() - started
            print(f"phi {phi}, n {num_windows}: {seconds:.0f} s", flush=True)
            args.out.write_text(render(tallies, args, seconds))
    print(args.out.read_text())


def tally(phi: float, num_windows: int, args: argparse.Namespace) -> Counter[str]:
    """Return how often each event happened in `reps` simulated evaluations."""
    from joblib import Parallel, delayed

    chunks = np.array_split(np.arange(args.reps), args.jobs)
    work = (
        delayed(run_chunk)(phi, num_windows, chunk, args.resamples, args.parts) for chunk in chunks
    )
    total: Counter[str] = Counter()
    for found in Parallel(n_jobs=args.jobs)(work):
        total.update(found)
    return total


def run_chunk(
    phi: float, num_windows: int, reps: NDArray[np.int_], num_resamples: int, parts: Sequence[str]
) -> Counter[str]:
    """Simulate the repetitions named; each has its own random stream."""
    limits = replace(Thresholds.load(), num_resamples=num_resamples)
    counter: Counter[str] = Counter()
    for rep in reps:
        rng = np.random.default_rng([int(phi * 10), num_windows, int(rep)])
        counter.update(
            name for name, happened in one_rep(rng, phi, num_windows, limits, parts) if happened
        )
    return counter


def one_rep(
    rng: np.random.Generator, phi: float, n: int, limits: Thresholds, parts: Sequence[str]
) -> Iterator[tuple[str, bool]]:
    """Yield (event, whether it happened) for one simulated evaluation."""
    y = labels(rng, phi, n)
    shared = ar1(rng, phi, n)

    def model(accuracy: float, sharpness: float = 1.0) -> Array:
        noise = math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * ar1(rng, phi, n)
        return posterior(y, noise, accuracy, sharpness)

    options = {"block_length": block_length(phi), "thresholds": limits}
    base = model(ACCURACY)
    rivals = {0: model(ACCURACY), 5: model(ACCURACY + 0.05), 10: model(ACCURACY + 0.10)}
    alone = {
        "null": model(ACCURACY, no_gain_sharpness()),
        "noise": model(0.5 + 1e-6, 1e5),
        "+5": model(0.55),
        "+10": model(0.60),
        "+15": model(0.65),
    }
    bars = {
        "equal": base,
        "more accurate": model(ACCURACY + limits.max_accuracy_loss),
        "lower loss": model(accuracy_for_loss(expected_loss(ACCURACY) - limits.margin_log_loss)),
    }
    if "baseline" in parts:
        yield from baseline_events(y, alone, options)
    if "rivals" in parts:
        yield from rival_events(y, base, rivals, options)
        yield from margin_events(y, bars, rivals[0], options)
    if "constants" in parts:
        yield from constant_events(rng, phi, n, options)


def baseline_events(
    y: NDArray[np.int_], alone: dict[str, Array], options: dict
) -> Iterator[tuple[str, bool]]:
    """Gate 1 and the class-prior rule of promotion."""
    prior = np.full((y.size, 2), 0.5)
    for name, proba in alone.items():
        found = gate_1_baseline(y, proba, prior, **options)
        yield f"gate 1 {name}", found.verdict == "passed"
        if name in ("null", "+10"):
            yield f"prior {name}", promote(y, proba, prior, "class prior", options) == "passed"


def rival_events(
    y: NDArray[np.int_], base: Array, rivals: dict[int, Array], options: dict
) -> Iterator[tuple[str, bool]]:
    """Gates 2, 4, 6 and promotion, for rivals better than the baseline by 0, 5 and 10 points."""
    for gain, rival in rivals.items():
        key = "null" if gain == 0 else f"+{gain}"
        control = gate_2_control(y, base, {"control": rival}, **options)
        yield f"gate 2 stop {key}", control.verdict == "failed"
        transfer = gate_4_transfer(y, rival, base, **LOADED, **options)
        yield f"gate 4 {key}", transfer.verdict == "passed"
        yield f"gate 4 ece {key}", refused_for_ece(transfer)
        yield f"gate 6 {key}", gate_6_simple(y, rival, base, **options).verdict == "passed"
        yield f"promotion {key}", promote(y, rival, base, "champion", options) == "passed"


def margin_events(
    y: NDArray[np.int_], bars: dict[str, Array], equal: Array, options: dict
) -> Iterator[tuple[str, bool]]:
    """Gates 5 and 7 at their margin and at equality, and what is shown for comparison."""
    quality = {"passed": True, "train_only": True}
    for name, bar in (("gate 5 null", "more accurate"), ("gate 5 equal", "equal")):
        found = gate_5_augmentation(y, equal, {"best": bars[bar]}, quality=quality, **options)
        yield name, found.verdict == "passed"
    for name, bar in (("gate 7 null", "lower loss"), ("gate 7 equal", "equal")):
        found = gate_7_ensemble(
            y, equal, {"best": bars[bar]}, temperature_part="validation", **options
        )
        yield name, found.verdict == "passed"
    yield "percentile null", percentile_superior(y, equal, bars["equal"], options)
    yield (
        "ece above null",
        (compute_metrics(y, bars["equal"])["ece"] or 0) > ece_null(bars["equal"]).p95,
    )


def constant_events(
    rng: np.random.Generator, phi: float, n: int, options: dict
) -> Iterator[tuple[str, bool]]:
    """Gate 1 on models that are constant, or as good as, where 70 % are of class 0."""
    y = labels(rng, phi, n, share=0.3)
    prior = np.tile([0.65, 0.35], (n, 1))
    late = (np.arange(n) >= n // 2).astype(float)
    fold_prior = prior + 0.05 * np.where(late[:, None] > 0, [1, -1], [-1, 1])
    rare = np.where(rng.random(n) < 0.02, 0.6, 0.3)
    by_fold = np.where(late > 0, 0.3, 0.6)
    cases = {
        "constant majority": (np.full(n, 0.3), prior),
        "constant minority": (np.full(n, 0.7), prior),
        "constant, jitter .01": (0.3 + 0.01 * rng.standard_normal(n), prior),
        "coin, jitter .01": (0.5 + 0.01 * rng.standard_normal(n), prior),
        "minority in 2 %": (rare, prior),
        "constant by fold": (by_fold, fold_prior),
    }
    for name, (p, against) in cases.items():
        found = gate_1_baseline(y, np.column_stack([1 - p, p]), against, **options)
        yield name, found.verdict == "passed"


def promote(y: NDArray[np.int_], proba: Array, champion: Array, name: str, options: dict) -> str:
    """Return the promotion gate's verdict with every earlier gate passed."""
    found = gate_promotion(
        y,
        proba,
        champion,
        champion_name=name,
        gate_verdicts=PASSED,
        uses_encoder=False,
        uses_synthetic=False,
        prior=np.full((y.size, 2), 0.5),
        **options,
    )
    return found.verdict


def refused_for_ece(found: GateReport) -> bool:
    """Return whether ECE alone kept Gate 4 from passing."""
    return found.verdict == "inconclusive" and found.reasons[0].endswith("but ECE is up")


def percentile_superior(y: NDArray[np.int_], first: Array, second: Array, options: dict) -> bool:
    """Return whether the plain percentile interval of log-loss lies below 0, for comparison."""
    rows = np.arange(y.size)
    difference = np.log(second[rows, y]) - np.log(first[rows, y])
    counts = resample_counts(
        y.size,
        block_length=options["block_length"],
        num_resamples=options["thresholds"].num_resamples,
        seed=0,
    )
    return bool(np.quantile(counts @ difference / y.size, 0.975) < 0)


def block_length(phi: float) -> int:
    """Return the lag at which an AR(1) correlation has fallen to 5 %."""
    return math.ceil(math.log(0.05) / math.log(phi))


def ar1(rng: np.random.Generator, phi: float, n: int) -> Array:
    """Return an AR(1) path of unit variance."""
    noise = rng.standard_normal(n + 100) * math.sqrt(1 - phi**2)
    path: Array = lfilter([1.0], [1.0, -phi], noise)[100:]
    return path


def labels(rng: np.random.Generator, phi: float, n: int, share: float = 0.5) -> NDArray[np.int_]:
    """Return correlated labels of which both occur at least three times."""
    while True:
        y = (ar1(rng, phi, n) > norm.ppf(1 - share)).astype(int)
        if 3 <= y.sum() <= n - 3:
            return y


def posterior(y: NDArray[np.int_], noise: Array, accuracy: float, sharpness: float = 1.0) -> Array:
    """Return P(class | x), calibrated where `sharpness` is 1."""
    d = 2 * norm.ppf(accuracy)
    logit = sharpness * d * ((2 * y - 1) * d / 2 + noise)
    p = 1 / (1 + np.exp(-logit))
    return np.column_stack([1 - p, p])


def expected_loss(accuracy: float, sharpness: float = 1.0) -> float:
    """Return the expected log-loss of `posterior`, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    d = 2 * norm.ppf(accuracy)
    loss = np.logaddexp(0, -sharpness * d * (d / 2 + nodes))
    return float(weights @ loss / weights.sum())


def no_gain_sharpness() -> float:
    """Return the overconfidence at which a 60 % model's log-loss is exactly the prior's, ln 2."""
    return float(brentq(lambda s: expected_loss(ACCURACY, s) - math.log(2), 1.1, 20))


def accuracy_for_loss(loss: float) -> float:
    """Return the accuracy of the calibrated model with this expected log-loss."""
    return float(brentq(lambda a: expected_loss(a) - loss, 0.5001, 0.99))


def render(
    tallies: dict[tuple[float, int], Counter[str]], args: argparse.Namespace, s: float
) -> str:
    """Return the Markdown tables."""
    lines = [
        f"{args.reps} repetitions, {args.resamples} resamples, {s:.0f} s with {args.jobs} "
        "process(es). Per cent, with the exact 95 % interval of the rate.",
    ]
    for phi in PHIS:
        for title, all_rows in ROWS.items():
            rows = {label: key for label, key in all_rows.items() if part_of(key) in args.parts}
            if not rows:
                continue
            lines += ["", f"**{title}**; AR(1) {phi}, blocks of {block_length(phi)}", ""]
            lines += ["| | " + " | ".join(f"n = {n}" for n in args.sizes) + " |"]
            lines += ["|---|" + "---|" * len(args.sizes)]
            for label, key in rows.items():
                found = [tallies.get((phi, n)) for n in args.sizes]
                cells = [rate(one[key], args.reps) if one is not None else "" for one in found]
                lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def part_of(key: str) -> str:
    """Return the part that simulates an event; what was not simulated has no rate."""
    if key in ROWS["Constant and nearly constant models: passes of Gate 1"]:
        return "constants"
    return "baseline" if key.startswith(("gate 1 ", "prior ")) else "rivals"


def rate(hits: int, total: int) -> str:
    """Return ``2.5 [1.2, 4.5]``: per cent with the Clopper-Pearson interval."""
    low = beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    return f"{100 * hits / total:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
