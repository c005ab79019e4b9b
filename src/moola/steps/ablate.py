"""The ablation A to E: what the encoder and each freeze schedule are worth, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moola.config import names
from moola.config.base import check_seeds
from moola.config.training import FinetuneConfig
from moola.data.labels import class_names
from moola.data.store.data_store import DataStore
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.pages.plots import figure_to_array, forest_figure
from moola.hashing import sha256_json
from moola.judging.calibrate import overlap_of
from moola.judging.folds import find_folds, folds_dataset, require_folds
from moola.judging.predictions import predictions_table
from moola.judging.progress import Progress, silent
from moola.judging.seen import searched_on
from moola.judging.started_from import ready_to_start
from moola.models.device import describe_device, resolve_device
from moola.tracking.lineage import git_state, run_name
from moola.tracking.mlflow_run import TrackedRun, child_run, tracked_run
from moola.tracking.training_log import FROM_SCRATCH, TrainingsLog
from moola.training.ablation import (
    BASELINE,
    AblationFinding,
    Experiment,
    experiments,
    judge_ablation,
    same_schedules,
    table_row,
)
from moola.training.crossval import Trainee, WalkForwardPredictions, walk_forward_predictions
from moola.training.launchers import Launcher, LocalLauncher

_SPREAD = ("log_loss", "brier", "accuracy")


@dataclass(frozen=True, kw_only=True)
class AblationSummary:
    """What an ablation found; `rows` is its table."""

    run_id: str
    rows: tuple[Mapping[str, Any], ...]
    finding: AblationFinding
    num_windows: int
    seeds: tuple[int, ...]


def ablate(
    base: FinetuneConfig,
    *,
    seeds: tuple[int, ...] = (17, 18, 19, 20, 21),
    gradual_after: int = 5,
    only: str = "ABCDE",
    folds: str | None = None,
    launcher: Launcher = LocalLauncher(),  # noqa: B008  frozen
    data_root: Path | str = "data",
    cache: Path = Path(names.EVALUATION_FOLDER),
    project: Path = Path(),
    progress: Progress = silent,
) -> AblationSummary:
    """Train every arm on every fold and seed, compare with the baseline, log one parent run.

    Parameters
    ----------
    base
        Training options and the encoder; its `freeze` and `seed` are replaced.
    seeds
        Averaged per window before the comparison; the table gives their spread.
    gradual_after
        Epochs a layer, of arm E.
    only
        Arms, A among them.
    folds
        Fold file; None takes the one made for the labelled set.
    launcher
        Where the trainings run; the figures do not depend on it.
    data_root
        Root of the data store.
    cache
        Folder of finished fold x seed results, shared with ``moola evaluate``.
    project
        Folder whose ``.moola/keys`` hold the gate runner's key, by which the arms are counted.
    progress
        Told how far it is.

    Returns
    -------
    AblationSummary
        The table of the arms and what can be said of them.

    Raises
    ------
    AuditError
        If the encoder's corpus is not stated or reaches into a fold's validation windows.
    """
    check_seeds(seeds)
    device = resolve_device(base.device)
    base = ready_to_start(base, cache)
    arms = experiments(base, gradual_after=gradual_after, only=only)
    store = DataStore(data_root)
    labeled = store.load_set(base.labeled)
    found_folds = find_folds(store, labeled.name, folds)
    title = run_name("ablation", base.labeled, found_folds.name, seeds[0], git_state())
    params = {**base.to_dict(), "seeds": list(seeds), "gradual_after": gradual_after, "arms": only}
    with tracked_run(
        step="ablate",
        experiment=names.EXPERIMENT_FINETUNE,
        name=title,
        params={**params, "device_used": device},
        device=describe_device(device),
    ) as run:
        require_folds(store, labeled, found_folds, base, on_proof=run.proofs.log)
        num_windows = sum(len(fold.val) for fold in found_folds.folds)
        run.log_inputs([folds_dataset(labeled, found_folds, num_windows)])
        counted = searched_on(
            labeled, found_folds, search=sha256_json({**params, "folds": found_folds.digest()}),
            tried=len(arms), data_root=data_root, project=project,
        )  # fmt: skip
        run.set_tags({names.TAG_SEARCHED: counted})
        titles = {arm.letter: f"{arm.letter} {arm.title}" for arm in arms}
        with TrainingsLog(run) as trainings:
            predictions = walk_forward_predictions(
                {arm.letter: Trainee(config=arm.config, seeds=seeds) for arm in arms},
                labeled,
                found_folds,
                device=device,
                cache=cache,
                launcher=launcher,
                on_done=lambda letter, done, total: progress(titles[letter], done, total),
                on_training=trainings,
            )
        bins = {k: calibration_bins(p.y, p.proba).to_dict() for k, p in predictions.items()}
        run.proofs.log("calibration", {"arms": bins})
        judged = overlap_of(labeled.times, predictions[BASELINE].rows)
        finding = judge_ablation(predictions, **judged, same_schedule=same_schedules(arms))
        rows = _rows(arms, predictions, finding)
        _log(run, rows, finding, seeds)
        for arm, row in zip(arms, rows, strict=True):
            _log_arm(run, arm, row, predictions[arm.letter], class_names(labeled.recipe))
    return AblationSummary(
        run_id=run.run_id, rows=rows, finding=finding, num_windows=num_windows, seeds=seeds
    )


def _rows(
    arms: tuple[Experiment, ...],
    predictions: Mapping[str, WalkForwardPredictions],
    finding: AblationFinding,
) -> tuple[Mapping[str, Any], ...]:
    rows = []
    for arm in arms:
        arm_predictions = predictions[arm.letter]
        rows.append(
            table_row(
                arm,
                compute_metrics(arm_predictions.y, arm_predictions.proba),
                spread(arm_predictions),
                finding,
            )
        )
    return tuple(rows)


def _log(
    run: TrackedRun,
    rows: tuple[Mapping[str, Any], ...],
    finding: AblationFinding,
    seeds: tuple[int, ...],
) -> None:
    """Log table, plot, report and verdict on the parent run."""
    run.log_table(names.ARTIFACT_ABLATION_TABLE, rows)
    intervals = {
        str(row["experiment"]): finding.comparisons[letter].deltas["log_loss"].interval()
        for row in rows
        if (letter := str(row["experiment"])[0]) != BASELINE
    }
    figure = forest_figure(intervals, "Log-loss against the baseline", unit="arm less A")
    run.log_picture(names.ARTIFACT_ABLATION_PLOT, names.IMAGE_ABLATION, figure_to_array(figure))
    run.log_json(
        names.ARTIFACT_ABLATION_REPORT,
        {
            "rows": [dict(row) for row in rows],
            "flags": finding.flags(),
            "notes": finding.notes(),
            "comparisons": {k: c.to_dict() for k, c in finding.comparisons.items()},
            "seeds": list(seeds),
        },
    )
    run.log_metrics(_flat(rows))
    run.set_tags(
        {
            names.TAG_VERDICT: "red flag" if finding.identical else "compared",
            names.TAG_REASON: "; ".join(finding.flags()) or "no two arms answer alike",
            names.TAG_NOTE: note(rows, finding),
        }
    )


def spread(predictions: WalkForwardPredictions) -> dict[str, float | None]:
    """Return the standard deviation over seeds of what each seed alone scores; of one: None."""
    each = [compute_metrics(predictions.y, proba) for proba in predictions.proba_by_seed]
    figures: dict[str, float | None] = {}
    for name in _SPREAD:
        values = [v for m in each if (v := m[name]) is not None]
        figures[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return figures


def note(rows: tuple[Mapping[str, Any], ...], finding: AblationFinding) -> str:
    """Return the finding as Markdown."""
    lines = [f"- **{row['experiment']}**: {row['against_a']}" for row in rows]
    flags = [f"- 🔴 {flag}" for flag in finding.flags()] + [f"- {n}" for n in finding.notes()]
    return "\n".join(["Each arm less A; negative log-loss is better.", "", *flags, *lines])


def _log_arm(
    run: TrackedRun,
    arm: Experiment,
    row: Mapping[str, Any],
    predictions: WalkForwardPredictions,
    labels: tuple[str, ...],
) -> None:
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float)}
    tags = {
        names.TAG_STEP: "ablate",
        names.TAG_REASON: row["against_a"],
        names.TAG_EXPERIMENT: row["experiment"],
    }
    arm_predictions = predictions
    proofs = ("load_report", "schedule", "calibration")
    title = f"{arm.letter}-{arm.config.schedule}"
    with child_run(run, title, tags=tags, metrics=numbers, proofs=proofs) as child:
        child.log_params(arm.config.to_dict())
        if arm_predictions.load_report is None:
            child.proofs.none("load_report", FROM_SCRATCH)
        else:
            child.proofs.log("load_report", arm_predictions.load_report)
        schedule = arm_predictions.trainings[0].schedule if arm_predictions.trainings else None
        child.proofs.log("schedule", {"schedule": schedule, "proof": arm_predictions.proof})
        child.proofs.log(
            "calibration", calibration_bins(arm_predictions.y, arm_predictions.proba).to_dict()
        )
        table = predictions_table(
            arm_predictions.rows, arm_predictions.y, labels, probability=arm_predictions.proba
        )
        child.log_parquet(names.ARTIFACT_PREDICTIONS.format(part="walk_forward"), table)


def _flat(rows: tuple[Mapping[str, Any], ...]) -> dict[str, float | None]:
    """Return log-losses and their differences under names such as ``delta_log_loss_D``."""
    wanted = ("log_loss", "delta_log_loss", "delta_log_loss_low", "delta_log_loss_high")
    return {f"{k}_{r['experiment'][0]}": r[k] for r in rows for k in wanted if k in r}
