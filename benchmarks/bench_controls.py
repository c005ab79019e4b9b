"""Gate 2 with many controls: false passes, false STOPs and power, jointly and by Holm.

    python benchmarks/bench_controls.py --reps 500 --out controls.md

Models and windows are those of `gate_simulation.py`: exact posteriors through AR(1) noise, judged
by the product's own rule. Controls share half of their noise's variance with the candidate;
`correlated` ones share four fifths of the other half among themselves. The first repetition of
each cell up to n = 500 is also given to the gate itself, whose verdict must be the same.

A false pass is judged three ways: by each control's own interval (the gate's way), and, beside it,
by what it would cost to correct that too, jointly or by Holm.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import gate_simulation as base
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import norm

from moola.evaluation.compare_result import Delta
from moola.evaluation.gates import family, gate_2_control
from moola.evaluation.gates.family import holm, joint_p_values
from moola.evaluation.predictions import log_loss_per_window

Array = NDArray[np.float64]
SIZES, NUM_CONTROLS = (60, 200, 775), (2, 4, 6)
LAYOUTS = (
    ("apart", 0.0),
    ("apart", 0.8),
    ("apart", 0.95),
    ("overlap", 0.0),
    ("horizons overlap", 0.5),
)
NUM_RESAMPLES = 2000
CHECKED = 500  # windows; with more the gate itself takes too long
MARGIN = base.LIMITS.margin_log_loss
LIMITS = replace(base.LIMITS, num_resamples=NUM_RESAMPLES)
LEVEL = 1.0 - base.LIMITS.confidence
FALSE = {
    "pass, one": "pass, one control ahead by exactly the margin, the others far behind",
    "pass, all": "pass, all controls ahead by exactly the margin",
    "stop, joint": "STOP, all controls equal, jointly (the gate)",
    "stop, Holm": "STOP, all controls equal, by Holm",
}
RIGHT = {
    "one better, joint": "STOP, one control 6 points better, jointly (the gate)",
    "one better, Holm": "STOP, one control 6 points better, by Holm",
    "all better, joint": "STOP, all controls 6 points better, jointly (the gate)",
    "all better, Holm": "STOP, all controls 6 points better, by Holm",
    "worse, own": "pass, all controls 10 points worse, each by its own interval (the gate)",
    "worse, joint": "pass, all controls 10 points worse, corrected jointly",
    "worse, Holm": "pass, all controls 10 points worse, corrected by Holm",
}
# The product's resamples, kept for more block lengths than it keeps itself.
family.resample_counts = lru_cache(maxsize=64)(family.resample_counts.__wrapped__)
Cell = tuple[str, float, int, int, bool]


def main() -> None:
    """Parse, simulate, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=Path("controls.md"))
    args = parser.parse_args()
    started = time.perf_counter()
    found: dict[Cell, Counter[str]] = {}
    for n, num, correlated, layout in product(args.sizes, NUM_CONTROLS, (False, True), LAYOUTS):
        cell = (*layout, n, num, correlated)
        chunks = np.array_split(np.arange(args.reps), args.jobs)
        parts = Parallel(n_jobs=args.jobs)(delayed(run)(cell, chunk) for chunk in chunks)
        found[cell] = sum(parts, Counter())
        print(f"{cell}: {time.perf_counter() - started:.0f} s", flush=True)
        args.out.write_text(render(found, args.reps))
    print(args.out.read_text())


def run(cell: Cell, reps: NDArray[np.int_]) -> Counter[str]:
    """Simulate the repetitions named; each has its own random stream."""
    overlap, phi, n, num, correlated = cell
    hits: Counter[str] = Counter()
    for rep in reps:
        seed = [list(base.OVERLAPS).index(overlap), int(phi * 100), n, num, correlated, int(rep)]
        rng = np.random.default_rng(seed)
        world = base.World(rng, overlap, phi, n, checked=False)
        hits.update(
            name
            for name, happened in events(world, num, correlated, rep == 0 and n < CHECKED)
            if happened
        )
    return hits


def events(world: base.World, num: int, correlated: bool, checked: bool) -> base.Events:
    """Yield what happens in one simulated evaluation of each kind."""
    ahead = base.accuracy_at(MARGIN)
    equal, better, worse = base.ACCURACY, base.ACCURACY + 0.06, base.ACCURACY - 0.099
    kinds = {
        "pass, one": [ahead] + [worse] * (num - 1),
        "pass, all": [ahead] * num,
        "stop": [equal] * num,
        "one better": [better] + [equal] * (num - 1),
        "all better": [better] * num,
        "worse": [worse] * num,
    }
    for kind, accuracies in kinds.items():
        y, candidate, controls = models(world, accuracies, correlated)
        judged = Judged(world, y, candidate, controls)
        if checked:
            judged.check(y, candidate, controls)
        if kind.startswith("pass"):
            yield kind, judged.passes()
        elif kind == "worse":
            yield "worse, own", judged.passes()
            yield "worse, joint", judged.passes("joint")
            yield "worse, Holm", judged.passes("Holm")
        else:
            yield f"{kind}, joint", judged.stops("joint")
            yield f"{kind}, Holm", judged.stops("Holm")


def models(
    world: base.World, accuracies: list[float], correlated: bool
) -> tuple[NDArray[np.int_], Array, dict[str, Array]]:
    """Return labels, the candidate and its controls, all calibrated."""
    y, shared, family = world.labels(0.5), world.noise(), world.noise()

    def model(accuracy: float, among: float) -> Array:
        own = math.sqrt(among) * family + math.sqrt(1 - among) * world.noise()
        d = 2 * norm.ppf(accuracy)
        x = (2 * y - 1) * d / 2 + math.sqrt(0.5) * (shared + own)
        return base.two(1 / (1 + np.exp(-d * x)))

    among = 0.8 if correlated else 0.0
    controls = {str(i): model(accuracy, among) for i, accuracy in enumerate(accuracies)}
    return y, model(base.ACCURACY, 0.0), controls


class Judged:
    """A candidate beside its controls, as gate 2 judges it and as others would."""

    def __init__(self, world: base.World, y, candidate: Array, controls: dict[str, Array]):
        self.world = world
        self.differences, self.deltas = {}, {}
        for name, control in controls.items():
            loss = log_loss_per_window(y, candidate) - log_loss_per_window(y, control)
            right = [(p.argmax(axis=1) == y).astype(float) for p in (candidate, control)]
            self.differences |= {f"{name}/log_loss": loss, f"{name}/accuracy": right[0] - right[1]}
            self.deltas[f"{name}/log_loss"] = world.delta(y, candidate, control)
            self.deltas[f"{name}/accuracy"] = world.accuracy(y, candidate, control)

    def stops(self, way: str) -> bool:
        """Return whether a control is found to be better."""
        raw = {key: p_of(delta) for key, delta in self.deltas.items()}
        adjusted = self.adjusted(raw, self.differences, way)
        return any(adjusted[k] < LEVEL and self.deltas[k].inferior for k in raw)

    def passes(self, way: str | None = None) -> bool:
        """Return whether no control may be ahead by the margin."""
        losses = {k: delta for k, delta in self.deltas.items() if k.endswith("log_loss")}
        if not all(delta.non_inferior and not delta.inferior for delta in losses.values()):
            return False  # no correction lets more through
        if way is None:
            return not self.stops("joint")
        beyond = {key: self.differences[key] - MARGIN for key in losses}
        raw = {k: p_of(self.world.judged("log_loss", v, MARGIN)) for k, v in beyond.items()}
        return max(self.adjusted(raw, beyond, way).values()) < LEVEL

    def adjusted(
        self, raw: dict[str, float], values: dict[str, Array], way: str
    ) -> dict[str, float]:
        """Return adjusted p-values."""
        if way == "Holm":
            return holm(raw)
        context = self.world.context
        shared = 1 if context.horizons_apart else context.block_length
        return joint_p_values(raw, values, block_length=shared, num_resamples=NUM_RESAMPLES)

    def check(self, y, candidate: Array, controls: dict[str, Array]) -> None:
        """Raise unless the gate itself says the same."""
        context = replace(self.world.context, thresholds=LIMITS)
        verdict = gate_2_control(y, candidate, controls, context=context).verdict
        own = "failed" if self.stops("joint") else "passed" if self.passes() else "inconclusive"
        if verdict != own:
            raise AssertionError(f"the gate says {verdict}, the simulation {own}")


def p_of(delta: Delta) -> float:
    """Return a p-value; 1 where there is none."""
    return 1.0 if delta.p_value is None else delta.p_value


def render(found: dict[Cell, Counter[str]], reps: int) -> str:
    """Return the Markdown tables: per cent, with the exact 95 % interval of the rate."""
    sizes = sorted({cell[2] for cell in found})
    heads = [f"{num} {'correlated' if c else 'independent'}" for num, c in columns()]
    lines = [f"{reps} repetitions a cell."]
    for n in sizes:
        lines += ["", f"**False verdicts (limit 5 %), n = {n}**: the highest over all windows", ""]
        lines += ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for key, label in FALSE.items():
            hits = [
                max((h[key] for c, h in found.items() if c[2:] == (n, *column)), default=None)
                for column in columns()
            ]
            lines.append(row(label, hits, reps))
    for (overlap, phi), n in product(LAYOUTS, sizes):
        lines += ["", f"**Right verdicts, n = {n}**; windows: {overlap}, AR(1) {phi:g}", ""]
        lines += ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for key, label in RIGHT.items():
            cells = [found.get((overlap, phi, n, *column)) for column in columns()]
            lines.append(row(label, [None if c is None else c[key] for c in cells], reps))
    return "\n".join(lines) + "\n"


def row(label: str, hits: list[int | None], reps: int) -> str:
    """Return a line of a table."""
    cells = ["" if h is None else base.rate(h, reps) for h in hits]
    return f"| {label} | " + " | ".join(cells) + " |"


def columns() -> list[tuple[int, bool]]:
    """Return number and kind of controls, as the tables' columns."""
    return list(product(NUM_CONTROLS, (False, True)))


if __name__ == "__main__":
    main()
