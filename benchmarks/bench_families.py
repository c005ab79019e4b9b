"""How often something useless passes when many are tried on the same windows.

    python benchmarks/bench_families.py --reps 1000

Every configuration knows nothing: it answers 0.5 with noise of 0.05 of its own. Three ways to try
many, each judged by the product's own rule and counting:

- `searched`: k - 1 configurations are searched, the best of all by log-loss is judged by gate 1;
- `one by one`: k configurations are judged by gate 1 one after another, until one passes;
- `looks`: k candidates ask for Production one after another on the same locked test windows, beside
  a champion that knows as little, until one passes by either way.

Beside each the rate with nothing counted, which is what trying often does; what does not pass then
is not asked again, because a higher confidence lets nothing more through. Prints false passes with
exact (Clopper-Pearson) 95 % intervals; exits with 1 if one is above 5 % beyond doubt.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import beta

from moola.config.evaluation import Thresholds
from moola.evaluation.gates import GateContext, gate_1_baseline, gate_promotion
from moola.evaluation.gates.promotion import look_confidence
from moola.evaluation.predictions import log_loss_per_window

LIMITS = replace(Thresholds.load(), num_resamples=100)
CONFIGURATIONS = (1, 5, 20, 50)
LOOKS = (1, 5, 20)
APART = GateContext(block_length=1, horizons_apart=True, thresholds=LIMITS)
PASSED = dict.fromkeys(range(8), "passed")


def main() -> int:
    """Simulate, print the table, judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    found: Counter[tuple[str, int, bool]] = Counter()
    for hits in Parallel(n_jobs=args.jobs)(
        delayed(one_world)(rep, args.windows) for rep in range(args.reps)
    ):
        found.update(hits)
    print(f"n = {args.windows}, {args.reps} repetitions\n")
    print("| tried | how many | false passes | nothing counted |")
    print("|---|---|---|---|")
    wrong = False
    ways = [("searched", CONFIGURATIONS), ("one by one", CONFIGURATIONS), ("looks", LOOKS)]
    for way, sizes in ways:
        for k in sizes:
            counted, plain = (found[way, k, c] for c in (True, False))
            print(f"| {way} | {k} | {rate(counted, args.reps)} | {rate(plain, args.reps)} |")
            wrong |= interval(counted, args.reps)[0] > 0.05
    return int(wrong)


def one_world(rep: int, n: int) -> Counter[tuple[str, int, bool]]:
    """Try everything in one simulated market; return what passed."""
    rng = np.random.default_rng([20_26, rep])
    y = (rng.random(n) < 0.5).astype(np.int64)
    num = max(*CONFIGURATIONS, *LOOKS) + 1
    answers = [two(np.clip(rng.normal(0.5, 0.05, n), 0.05, 0.95)) for _ in range(num)]
    champion, prior = answers.pop(), np.full((n, 2), 0.5)
    losses = [log_loss_per_window(y, p).mean() for p in answers]
    hits: Counter[tuple[str, int, bool]] = Counter()
    alone = [gate_1(y, p, prior, 1, 0) for p in answers]
    counted = [
        ok and gate_1(y, p, prior, i + 1, 0)
        for i, (p, ok) in enumerate(zip(answers, alone, strict=True))
    ]
    for k in CONFIGURATIONS:
        best = int(np.argmin(losses[:k]))
        hits["searched", k, False] += alone[best]
        hits["searched", k, True] += alone[best] and gate_1(y, answers[best], prior, 1, k - 1)
        hits["one by one", k, False] += any(alone[:k])
        hits["one by one", k, True] += any(counted[:k])
    asked = answers[: max(LOOKS)]
    first = [promotes(y, p, champion, prior, 1) for p in asked]
    looks = [
        ok and promotes(y, p, champion, prior, i + 1)
        for i, (p, ok) in enumerate(zip(asked, first, strict=True))
    ]
    for k in LOOKS:
        hits["looks", k, False] += any(first[:k])
        hits["looks", k, True] += any(looks[:k])
    return hits


def gate_1(
    y: NDArray[np.int64],
    proba: NDArray[np.float64],
    prior: NDArray[np.float64],
    judgement: int,
    searched: int,
) -> bool:
    """Return whether gate 1 passes, as `moola evaluate` asks it after these tries."""
    if log_loss_per_window(y, proba).mean() >= log_loss_per_window(y, prior).mean():
        return False  # no interval of a loss difference lies below 0 then
    confidence = look_confidence(LIMITS.confidence, judgement, num_doors=1 + searched)
    context = replace(APART, thresholds=replace(LIMITS, confidence=confidence))
    return gate_1_baseline(y, proba, prior, context=context).verdict == "passed"


def promotes(
    y: NDArray[np.int64],
    proba: NDArray[np.float64],
    champion: NDArray[np.float64],
    prior: NDArray[np.float64],
    look: int,
) -> bool:
    """Return whether the promotion gate passes at this look."""
    if log_loss_per_window(y, proba).mean() >= log_loss_per_window(y, prior).mean():
        return False  # the gate refuses it
    found = gate_promotion(
        y, proba, champion,
        champion_name="version 1", gate_verdicts=PASSED, uses_encoder=False, uses_synthetic=False,
        prior=prior, num_looks=look, context=APART,
    )  # fmt: skip
    return found.verdict == "passed"


def two(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of both classes, shape (n, 2)."""
    return np.column_stack([1.0 - p, p])


def interval(hits: int, reps: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate."""
    low = beta.ppf(0.025, hits, reps - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, reps - hits) if hits < reps else 1.0
    return float(low), float(high)


def rate(hits: int, reps: int) -> str:
    """Return a rate in words, in per cent."""
    low, high = interval(hits, reps)
    return f"{hits / reps:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":
    sys.exit(main())
