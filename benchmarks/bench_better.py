"""How often `better` is said of a model that is not, on rows of any kind; and of one that is.

    python benchmarks/bench_better.py --reps 2000 --out bench_better.md

Two models answer the same rows with errors that share 70 % of their variance; under the null both
are equal in expectation. Rows are independent; fall into clusters of ten (an intraclass correlation
of .3, in answers and targets); or follow each other in time (AR(1) of .5, .8, .95). Beside the rule
stands the usual script: the smaller mean wins.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import beta

from moola.evaluation.rows import LOSSES, loss_difference

Array = NDArray[np.float64]
KINDS = ("independent", "clusters", "AR .5", "AR .8", "AR .95")
METRICS = ("log_loss", "log_loss, heavy tails", "log_loss, overconfident", "mae", "accuracy")
SIZES = (50, 200, 1000)
SHARED, CORRELATION, PER_CLUSTER = 0.7, 0.3, 10
SEPARATION = 0.5  # distance of the classes' means in standard deviations of a model's error


def main() -> None:
    """Simulate every cell and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = []
    for title, gain in (("equal models (limit 5 %)", 0.0), ("the candidate is better", 0.25)):
        lines += [f"**{title}**, {args.reps} repetitions, per cent with exact 95 % intervals", ""]
        lines += ["| rows | metric | " + " | ".join(f"n = {n}" for n in args.sizes) + " | naive |"]
        lines += ["|---|---|" + "---|" * (len(args.sizes) + 1)]
        for kind in args.kinds:
            for metric in args.metrics:
                cells = [cell(kind, metric, n, args.reps, gain) for n in args.sizes]
                rates = " | ".join(rate(hits, args.reps) for hits, _ in cells)
                naive = f"{100 * np.mean([smaller for _, smaller in cells]) / args.reps:.0f}"
                lines.append(f"| {kind} | {metric} | {rates} | {naive} |")
                print(lines[-1], flush=True)
        lines.append("")
    if args.out:
        args.out.write_text("\n".join(lines))


def cell(kind: str, metric: str, n: int, reps: int, gain: float) -> tuple[int, int]:
    """Return how often the rule, and the usual script, says better."""
    hits = smaller = 0
    for rep in range(reps):
        rng = np.random.default_rng([KINDS.index(kind), METRICS.index(metric), n, rep])
        first, second = losses(rng, kind, metric, n, gain)
        clusters = np.arange(n) // PER_CLUSTER if kind == "clusters" else None
        in_time = kind.startswith("AR")
        delta = loss_difference(first, second, metric=metric, clusters=clusters, in_time=in_time)
        hits += delta.superior
        smaller += float(first.mean()) < float(second.mean())
    return hits, smaller


def losses(
    rng: np.random.Generator, kind: str, metric: str, n: int, gain: float
) -> tuple[Array, Array]:
    """Return both models' losses; the candidate's errors are smaller by `gain`."""
    heavy = "heavy" in metric
    shared = noise(rng, kind, n, heavy)
    own = [noise(rng, kind, n, heavy) for _ in range(2)]
    errors = [math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * e for e in own]
    if metric == "mae":
        answers = [(1 - gain) * errors[0], errors[1]]
        return tuple(LOSSES["mae"](np.zeros(n), a) for a in answers)  # type: ignore[return-value]
    y = (noise(rng, kind, n, False) > 0).astype(np.int64)
    sign = 2 * y - 1
    distance = [SEPARATION * (1 + 2 * gain), SEPARATION]
    logits = [d * (sign * d / 2 + e) for d, e in zip(distance, errors, strict=True)]
    if "overconfident" in metric:
        logits[0] = logits[0] * (sharpness() if not gain else 1.0)
        logits[1] = logits[1] if gain else np.zeros(n)
    name = "accuracy" if metric == "accuracy" else "log_loss"
    return tuple(LOSSES[name](y, two(z)) for z in logits)  # type: ignore[return-value]


def noise(rng: np.random.Generator, kind: str, n: int, heavy: bool) -> Array:
    """Return noise of unit variance with the dependence of a kind of rows."""

    def draw(size: int) -> Array:
        return rng.standard_t(3, size) / math.sqrt(3) if heavy else rng.standard_normal(size)

    if kind == "clusters":
        common = np.repeat(draw(-(-n // PER_CLUSTER)), PER_CLUSTER)[:n]
        return math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * draw(n)
    if kind == "independent":
        return draw(n)
    phi = float(kind.removeprefix("AR "))
    path: Array = lfilter([1.0], [1.0, -phi], draw(n + 200) * math.sqrt(1 - phi**2))[200:]
    return path


def sharpness() -> float:
    """Return the overconfidence at which a model's expected log-loss is that of one half, ln 2."""
    from scipy.optimize import brentq

    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def loss(s: float) -> float:
        margin = s * SEPARATION * (SEPARATION / 2 + nodes)
        return float(weights @ np.logaddexp(0, -margin)) - math.log(2)

    return float(brentq(loss, 1.05, 20))


def two(logits: Array) -> Array:
    """Return the probabilities of both classes."""
    p = 1 / (1 + np.exp(-logits))
    return np.column_stack([1 - p, p])


def rate(hits: int, total: int) -> str:
    """Return ``2.5 [1.2, 4.5]``: per cent with the Clopper-Pearson interval."""
    low = beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    return f"{100 * hits / total:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
