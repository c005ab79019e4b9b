"""Windows on which two models disagree, and the page for a candidate that a control beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moola.data.features import FEATURE_NAMES, features20
from moola.data.labels import class_names
from moola.evaluation.gates import GateReport
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.pages.disagreement import candles_figure, most_disagreed
from moola.evaluation.pages.investigation import (
    investigation_markdown,
    label_balance,
    shuffled_importance,
)
from moola.evaluation.pages.plots import figure_to_png
from moola.judging.judge import Judge
from moola.models import get_model

NUM_EXAMPLES = 6


@dataclass(frozen=True, kw_only=True)
class Example:
    """A window that two models predict differently: its id, caption, and picture (PNG)."""

    window: int
    caption: str
    png: bytes


def disagreements(judge: Judge) -> tuple[Example, ...]:
    """Return the windows on which the candidate and its strongest rival differ most.

    The rival is the control with the lowest log-loss or, without controls, the best of the
    candidate's variants; empty without any.
    """
    predictions, candidate = judge.rivals.finished, judge.rivals.own
    others = {name: predictions[name] for name in judge.rivals.controls if name in predictions}
    others = others or {name: p for name, p in predictions.items() if name != candidate}
    if candidate not in predictions or not others:
        return ()
    losses = {n: compute_metrics(p.y, p.proba)["log_loss"] for n, p in others.items()}
    rival = min(losses, key=lambda name: math.inf if (loss := losses[name]) is None else loss)
    mine, theirs = (judge.rivals.of_the_version(name) for name in (candidate, rival))
    names = class_names(judge.labeled.recipe)
    chosen = most_disagreed(
        mine.proba, theirs.proba, num=NUM_EXAMPLES, apart=min(judge.block_length, len(mine.y))
    )
    examples = []
    for row in chosen:
        window, true = int(mine.rows[row]), int(mine.y[row])
        when = str(judge.labeled.clock[window, 1])[:16].replace("T", " ")
        caption = (
            f"window {window}, {when}: {names[true]}\n"
            f"probability of it: candidate {mine.proba[row, true]:.0%}, "
            f"{rival} {theirs.proba[row, true]:.0%}"
        )
        figure = candles_figure(judge.labeled.X_ohlc[window], caption)
        examples.append(Example(window=window, caption=caption, png=figure_to_png(figure)))
    return tuple(examples)


def investigate(
    judge: Judge, control: GateReport, examples: tuple[Example, ...], *, picture_path: str
) -> str:
    """Return ``investigation.md`` for a candidate that a control beat.

    Uses neither labels nor windows of the locked test part.

    Parameters
    ----------
    judge
        The candidate's judge.
    control
        The report of gate 2.
    examples
        From `disagreements`.
    picture_path
        Path of their pictures relative to the page, with ``{window}`` for the window's id.
    """
    labeled, split = judge.labeled, judge.split
    assert labeled.y is not None
    unlocked = np.sort(np.concatenate([split.train, split.val]))
    model = get_model("logreg", seed=judge.config.seeds[0])
    model.fit(features20(labeled.X_ohlc[split.train]), labeled.y[split.train])
    importance = shuffled_importance(
        model,
        features20(labeled.X_ohlc[split.val]),
        labeled.y[split.val],
        FEATURE_NAMES,
        seed=judge.config.seeds[0],
    )
    pictures = {
        e.caption.replace("\n", "; "): picture_path.format(window=e.window) for e in examples
    }
    return investigation_markdown(
        control,
        title=f"{judge.candidate.name} version {judge.candidate.version}",
        class_names=class_names(labeled.recipe),
        balance=label_balance(labeled.y[unlocked], labeled.clock[unlocked, 1], labeled.num_classes),
        pictures=pictures,
        audit=judge.audit(with_features=True),
        importance=importance,
    )
