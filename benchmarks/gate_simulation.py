"""Simulation study of the gates: how often they pass when they should not, and when they should.

    python benchmarks/gate_simulation.py --reps 1000 --power-reps 300 --out gate_simulation.md

A model sees x = (2y - 1) d / 2 + e, e of unit variance, and answers with the exact posterior, so
that it is perfectly calibrated and right with probability Phi(d / 2). e is an AR(1) series, y comes
from another; two models share 70 % of their noise. A model that knows nothing answers with 0.5 and
noise of 0.05. Windows are of four kinds: `apart` share no bar; `overlap` share bars with 18 before
them (e is then a moving sum over 19 windows of the AR(1) series) while every label is known when
the next window ends, as in Moola's recipes; `horizons overlap` is the same with labels that are
not known yet, too.

Everything is judged by the product's own rule: it is told the windows' overlap and nothing of how
they were simulated. What cannot pass by its log-loss alone is not given to the gate, to save time;
what can, is, and the gate's verdict counts. Of each cell the first repetitions are given to the
gates in any case, to show that nothing passes which was sorted out.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import beta, norm

from moola.config.evaluation import Thresholds
from moola.evaluation import gates
from moola.evaluation.compare import delta_of
from moola.evaluation.compare_result import Delta
from moola.evaluation.gates.slow_constant import knowledge
from moola.evaluation.mean_interval import constant_confidence, mean_interval
from moola.evaluation.predictions import log_loss_per_window

Array = NDArray[np.float64]
SIZES = (20, 60, 200, 775)
PHIS = (0.0, 0.5, 0.8, 0.95)
OVERLAPS = {
    "apart": {"block_length": 1, "horizons_apart": True},
    "overlap": {"block_length": 19, "horizons_apart": True},
    "horizons overlap": {"block_length": 19, "horizons_apart": False},
}
SHARED_WINDOWS = 19
ACCURACY = 0.60
SHARED = 0.7
CHECKED = 3  # repetitions of a cell that go to the gates whatever their log-loss
LIMITS = replace(Thresholds.load(), num_resamples=100)
PASSED = dict.fromkeys(range(8), "passed")
LOADED = {
    "load_report": {"match_ratio_encoder": 1.0, "num_mismatched": 0},
    "schedule_proof": {"proven": True},
}
DRIFTS = {"fixed": "", "between": ", base rate .60 then .45", "inside": ", base rate .35 to .65"}
NULLS = {
    **{f"gate 1 {d}": f"Gate 1, knows nothing{text}" for d, text in DRIFTS.items()},
    "gate 1 overconfident": "Gate 1, overconfident, log-loss exactly the prior's",
    "gate 1 rare": "Gate 1, knows nothing, 5 % of class 1",
    "gate 1 three": "Gate 1, knows nothing, three classes",
    "gate 2 margin": "Gate 2, control better by exactly the margin",
    "gate 2 stop": "Gate 2, control equal: false STOP",
    "gate 4 equal": "Gate 4, transfer equal to scratch",
    "gate 5 margin": "Gate 5, exactly 2 points worse",
    "gate 6 equal": "Gate 6, equal",
    "gate 7 margin": "Gate 7, worse by exactly the margin",
    **{f"prior {d}": f"Promotion over the prior, knows nothing{t}" for d, t in DRIFTS.items()},
    "prior overconfident": "Promotion over the prior, log-loss exactly the prior's",
    "champion equal": "Promotion, equal to the champion",
    "champion heavy": "Promotion, equal to the champion, heavy tails (t, 3 degrees)",
}
POWERS = {
    "gate 1 +10": "Gate 1, 10 points above chance",
    "gate 1 +15": "Gate 1, 15 points above chance",
    "gate 2 equal": "Gate 2, control equal",
    "gate 2 -10": "Gate 2, control 10 points worse",
    "gate 2 STOP +10": "Gate 2, control 10 points better: STOP",
    "gate 6 +10": "Gate 6, 10 points better",
    "prior +10": "Promotion over the prior, 10 points above chance",
    "champion +10": "Promotion, 10 points better",
}
Events = Iterator[tuple[str, bool]]


def main() -> None:
    """Parse, simulate, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=1000)
    parser.add_argument("--power-reps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--phis", type=float, nargs="+", default=list(PHIS))
    parser.add_argument("--overlaps", nargs="+", choices=OVERLAPS, default=list(OVERLAPS))
    parser.add_argument("--out", type=Path, default=Path("gate_simulation.md"))
    args = parser.parse_args()
    started = time.perf_counter()
    found: dict[tuple[str, str, float, int], tuple[Counter[str], int]] = {}
    for overlap in args.overlaps:
        for n in args.sizes:
            for phi in args.phis:
                for kind, reps in (("null", args.reps), ("power", args.power_reps)):
                    cell = (kind, overlap, phi, n)
                    found[cell] = tally(cell, reps, args.jobs), reps
                seconds = time.perf_counter() - started
                print(f"{overlap}, phi {phi}, n {n}: {seconds:.0f} s", flush=True)
                args.out.write_text(render(found, args))
    print(args.out.read_text())


def tally(cell: tuple[str, str, float, int], reps: int, jobs: int) -> Counter[str]:
    """Return how often each event happened in `reps` simulated evaluations."""
    from joblib import Parallel, delayed

    chunks = np.array_split(np.arange(reps), jobs)
    work = (delayed(run_chunk)(*cell, chunk) for chunk in chunks)
    total: Counter[str] = Counter()
    for found in Parallel(n_jobs=jobs)(work):
        total.update(found)
    return total


def run_chunk(kind: str, overlap: str, phi: float, n: int, reps: NDArray[np.int_]) -> Counter[str]:
    """Simulate the repetitions named; each has its own random stream."""
    counter: Counter[str] = Counter()
    for rep in reps:
        rng = np.random.default_rng([list(OVERLAPS).index(overlap), int(phi * 100), n, int(rep)])
        world = World(rng, overlap, phi, n, checked=rep < CHECKED)
        events = world.nulls() if kind == "null" else world.powers()
        counter.update(name for name, happened in events if happened)
    return counter


class World:
    """One simulated evaluation: labels, models, and the product's verdicts on them."""

    def __init__(
        self, rng: np.random.Generator, overlap: str, phi: float, n: int, *, checked: bool
    ):
        self.rng, self.phi, self.n, self.checked = rng, phi, n, checked
        self.smooth = overlap != "apart"
        self.context = gates.GateContext(**OVERLAPS[overlap], thresholds=LIMITS)

    def nulls(self) -> Events:
        """Yield what passes though it should not."""
        for drift in DRIFTS:
            y, prior = self.drifting(drift)
            proba = two(np.clip(0.5 + 0.05 * self.noise(), 0.01, 0.99))
            yield f"gate 1 {drift}", self.baseline(y, proba, prior)
            yield f"prior {drift}", self.over_prior(y, proba, prior)
        y = self.labels(0.05)
        share = y.mean()
        rare = two(np.clip(share * np.exp(0.3 * self.noise()), 0.001, 0.9))
        yield "gate 1 rare", self.baseline(y, rare, np.tile([0.95, 0.05], (self.n, 1)))
        yield "gate 1 three", self.three_classes()
        y, half = self.labels(0.5), np.full((self.n, 2), 0.5)
        shared = self.noise()
        over = self.model(y, shared, ACCURACY, no_gain_sharpness())
        yield "gate 1 overconfident", self.baseline(y, over, half)
        yield "prior overconfident", self.over_prior(y, over, half)
        base, equal = (self.model(y, shared, ACCURACY) for _ in range(2))
        ahead = self.model(y, shared, accuracy_at(LIMITS.margin_log_loss))
        sharper = self.model(y, shared, ACCURACY + LIMITS.max_accuracy_loss)
        yield from self.rival_nulls(y, base, equal, ahead, sharper)
        heavy = np.clip(0.6 + 0.05 * self.noise(tails=3, num=2), 0.02, 0.98)
        first, second = (two(np.where(y == 1, p, 1 - p)) for p in heavy)
        yield "champion heavy", self.over_champion(y, first, second)

    def rival_nulls(self, y, base: Array, equal: Array, ahead: Array, sharper: Array) -> Events:
        """Yield the false verdicts of the gates that compare two models."""
        yield "gate 2 margin", self.control(y, base, ahead, "passed")
        yield "gate 2 stop", self.control(y, base, equal, "failed")
        better = self.delta(y, equal, base).superior
        yield (
            "gate 4 equal",
            self.asked(
                better,
                partial(gates.gate_4_transfer, y, equal, base, **LOADED, context=self.context),
            ),
        )
        quality = gates.AugmentationQuality(passed=True, train_only=True)
        yield "gate 5 margin", self.asked(
            self.accuracy(y, base, sharper).non_inferior,
            partial(gates.gate_5_augmentation, y, base, {"best": sharper}, quality=quality,
                    context=self.context))  # fmt: skip
        yield (
            "gate 6 equal",
            self.asked(better, partial(gates.gate_6_simple, y, equal, base, context=self.context)),
        )
        no_worse = self.delta(y, base, ahead).non_inferior
        yield "gate 7 margin", self.asked(no_worse, partial(
            gates.gate_7_ensemble, y, base, {"best": ahead}, temperature_part="validation",
            context=self.context))  # fmt: skip
        yield "champion equal", self.over_champion(y, equal, base)

    def powers(self) -> Events:
        """Yield what passes as it should."""
        y, half, shared = self.labels(0.5), np.full((self.n, 2), 0.5), self.noise()
        good, better = self.model(y, shared, 0.60), self.model(y, shared, 0.65)
        base, equal, best = (self.model(y, shared, a) for a in (0.60, 0.60, 0.70))
        yield "gate 1 +10", self.baseline(y, good, half)
        yield "gate 1 +15", self.baseline(y, better, half)
        yield "gate 2 equal", self.control(y, base, equal, "passed")
        yield "gate 2 -10", self.control(y, best, base, "passed")
        yield "gate 2 STOP +10", self.control(y, base, best, "failed")
        superior = self.delta(y, best, base).superior
        yield (
            "gate 6 +10",
            self.asked(superior, partial(gates.gate_6_simple, y, best, base, context=self.context)),
        )
        yield "prior +10", self.over_prior(y, good, half)
        yield "champion +10", self.over_champion(y, best, base)

    def asked(self, possible: bool, gate: Callable[[], gates.GateReport], verdict="passed") -> bool:
        """Return whether the gate gives the verdict; it is asked where that is possible."""
        if not (possible or self.checked):
            return False
        given = gate().verdict == verdict
        if given and not possible:
            raise AssertionError(f"{gate} gives {verdict} where the log-loss forbids it")
        return given

    def baseline(self, y: NDArray[np.int_], proba: Array, prior: Array) -> bool:
        """Return whether Gate 1 passes."""
        gate = partial(gates.gate_1_baseline, y, proba, prior, context=self.context)
        return self.asked(self.may_know(y, proba, prior, prior), gate)

    def over_prior(self, y: NDArray[np.int_], proba: Array, prior: Array) -> bool:
        """Return whether the promotion gate passes over the class prior."""
        possible = self.may_know(y, proba, prior, None)
        return self.asked(possible, self.promotion(y, proba, prior, gates.CLASS_PRIOR, prior))

    def may_know(self, y: NDArray[np.int_], proba: Array, prior: Array, folds) -> bool:
        """Return whether both log-loss differences of "knows something" lie below 0."""
        superior = self.delta(y, proba, prior, constant=True).superior
        return superior and knowledge(y, proba, folds, self.context).delta.superior

    def over_champion(self, y: NDArray[np.int_], proba: Array, champion: Array) -> bool:
        """Return whether the promotion gate passes over a champion."""
        delta, half = self.delta(y, proba, champion), np.full((self.n, 2), 0.5)
        possible = delta.superior or delta.non_inferior
        possible = possible and knowledge(y, proba, None, self.context).delta.superior
        return self.asked(possible, self.promotion(y, proba, champion, "champion", half))

    def promotion(self, y, proba: Array, champion: Array, name: str, prior: Array):
        """Return the promotion gate, every earlier gate passed, ready to be asked."""
        return partial(
            gates.gate_promotion, y, proba, champion, champion_name=name, gate_verdicts=PASSED,
            uses_encoder=False, uses_synthetic=False, prior=prior, context=self.context,
        )  # fmt: skip

    def control(self, y: NDArray[np.int_], proba: Array, control: Array, verdict: str) -> bool:
        """Return whether Gate 2 gives the verdict."""
        delta = self.delta(y, proba, control)
        possible = delta.non_inferior if verdict == "passed" else delta.low is not None
        if verdict == "failed":
            ahead = self.accuracy(y, proba, control)
            possible = delta.inferior or ahead.inferior
        gate = partial(gates.gate_2_control, y, proba, {"control": control}, context=self.context)
        return self.asked(possible, gate, verdict)

    def delta(self, y, proba: Array, rival: Array, *, constant: bool = False) -> Delta:
        """Return the log-loss difference as the gates judge it."""
        values = log_loss_per_window(y, proba) - log_loss_per_window(y, rival)
        return self.judged("log_loss", values, LIMITS.margin_log_loss, constant=constant)

    def accuracy(self, y: NDArray[np.int_], proba: Array, rival: Array) -> Delta:
        """Return the accuracy difference as the gates judge it."""
        right = [(matrix.argmax(axis=1) == y).astype(float) for matrix in (proba, rival)]
        return self.judged("accuracy", right[0] - right[1], LIMITS.max_accuracy_loss)

    def judged(self, name: str, values: Array, margin: float, *, constant: bool = False) -> Delta:
        """Return the difference of a mean under the thresholds."""
        least, confidence, block = (
            LIMITS.min_effective_windows,
            LIMITS.confidence,
            self.context.block_length,
        )
        if constant:
            least = LIMITS.min_effective_windows_constant
            confidence = constant_confidence(confidence, self.n / block, block, least)
        interval = mean_interval(
            values,
            block_length=block,
            horizons_apart=self.context.horizons_apart,
            confidence=confidence,
            min_effective_windows=least,
            skewed=constant,
        )
        return delta_of(name, interval, margin)

    def three_classes(self) -> bool:
        """Return whether Gate 1 passes a model of three classes that knows nothing."""
        y = np.digitize(self.ar1(), norm.ppf([0.45, 0.80]))
        if np.bincount(y, minlength=3).min() < 1:
            return False
        logits = np.log([0.4, 0.35, 0.25]) + 0.2 * self.noise(num=3).T
        proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return self.baseline(y, proba, np.tile([0.3, 0.4, 0.3], (self.n, 1)))

    def drifting(self, drift: str) -> tuple[NDArray[np.int_], Array]:
        """Return labels and the class prior of the train part."""
        share = {"fixed": 0.5, "between": 0.45, "inside": np.linspace(0.35, 0.65, self.n)}[drift]
        before = {"fixed": 0.5, "between": 0.6, "inside": 0.35}[drift]
        return self.labels(share), np.tile([1 - before, before], (self.n, 1))

    def labels(self, share: float | Array) -> NDArray[np.int_]:
        """Return labels that remember, of which both occur."""
        least = 1 if np.min(share) < 0.1 else min(3, self.n // 5)
        while True:
            y = (self.ar1() > norm.ppf(1 - np.asarray(share))).astype(int)
            if least <= y.sum() <= self.n - least:
                return y

    def noise(self, *, tails: int = 0, num: int = 0) -> Array:
        """Return noise of unit variance as the windows see it, shape (n,) or (num, n)."""
        if num:
            return np.stack([self.noise(tails=tails) for _ in range(num)])
        if not self.smooth:
            return self.ar1(tails=tails)
        path = self.ar1(tails=tails, more=SHARED_WINDOWS - 1)
        return np.convolve(path, np.ones(SHARED_WINDOWS), "valid") / smoothed_sd(self.phi)

    def ar1(self, *, tails: int = 0, more: int = 0) -> Array:
        """Return an AR(1) path of unit variance."""
        size = self.n + more + 100
        noise = self.rng.standard_t(tails, size) / math.sqrt(3) if tails else None
        noise = self.rng.standard_normal(size) if noise is None else noise
        path: Array = lfilter([1.0], [1.0, -self.phi], noise * math.sqrt(1 - self.phi**2))[100:]
        return path

    def model(self, y, shared: Array, accuracy: float, sharpness: float = 1.0) -> Array:
        """Return P(class | x), calibrated where `sharpness` is 1."""
        noise = math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * self.noise()
        d = 2 * norm.ppf(accuracy)
        return two(1 / (1 + np.exp(-sharpness * d * ((2 * y - 1) * d / 2 + noise))))


def two(p: Array) -> Array:
    """Return the probabilities of both classes."""
    return np.column_stack([1 - p, p])


@lru_cache
def smoothed_sd(phi: float) -> float:
    """Return the standard deviation of a sum of 19 neighbours of an AR(1) path."""
    lag = np.abs(np.subtract.outer(np.arange(SHARED_WINDOWS), np.arange(SHARED_WINDOWS)))
    return math.sqrt(float((phi**lag).sum() if phi else SHARED_WINDOWS))


def expected_loss(accuracy: float, sharpness: float = 1.0) -> float:
    """Return the expected log-loss of `World.model`, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    d = 2 * norm.ppf(accuracy)
    loss = np.logaddexp(0, -sharpness * d * (d / 2 + nodes))
    return float(weights @ loss / weights.sum())


@lru_cache
def no_gain_sharpness() -> float:
    """Return the overconfidence at which a 60 % model's log-loss is exactly the prior's, ln 2."""
    return float(brentq(lambda s: expected_loss(ACCURACY, s) - math.log(2), 1.1, 20))


@lru_cache
def accuracy_at(gain: float) -> float:
    """Return the accuracy of the calibrated model whose log-loss is lower by `gain`."""
    return float(brentq(lambda a: expected_loss(a) - expected_loss(ACCURACY) + gain, 0.5001, 0.99))


def render(found: dict, args: argparse.Namespace) -> str:
    """Return the Markdown tables: per cent, with the exact 95 % interval of the rate."""
    lines = [f"{args.reps} repetitions of what should not pass, {args.power_reps} of what should."]
    lines += highest(found, args)
    for kind, rows in (("null", NULLS), ("power", POWERS)):
        title = "should not happen (limit 5 %)" if kind == "null" else "should happen (power)"
        for overlap in args.overlaps:
            for phi in args.phis:
                cells = [found.get((kind, overlap, phi, n)) for n in args.sizes]
                if not any(cells):
                    continue
                lines += ["", f"**Passes that {title}**; windows: {overlap}, AR(1) {phi:g}", ""]
                lines += ["| | " + " | ".join(f"n = {n}" for n in args.sizes) + " |"]
                lines += ["|---|" + "---|" * len(args.sizes)]
                for key, label in rows.items():
                    rates = [rate(c[0][key], c[1]) if c else "" for c in cells]
                    lines.append(f"| {label} | " + " | ".join(rates) + " |")
    return "\n".join(lines) + "\n"


def highest(found: dict, args: argparse.Namespace) -> list[str]:
    """Return a table of the highest rate over all AR(1), by windows and n."""
    columns = [(overlap, n) for overlap in args.overlaps for n in args.sizes]
    lines = ["", "**Passes that should not happen, the highest over all AR(1)**", ""]
    lines += ["| | " + " | ".join(f"{overlap}, {n}" for overlap, n in columns) + " |"]
    lines += ["|---|" + "---|" * len(columns)]
    for key, label in NULLS.items():
        cells = []
        for overlap, n in columns:
            known = [found.get(("null", overlap, phi, n)) for phi in args.phis]
            hits = [(counter[key], reps) for counter, reps in filter(None, known)]
            cells.append(rate(*max(hits)) if hits else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def rate(hits: int, total: int) -> str:
    """Return ``2.5 [1.2, 4.5]``: per cent with the Clopper-Pearson interval."""
    low = beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    return f"{100 * hits / total:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
