"""A hyper-parameter search over the fine-tuning options, judged on walk-forward windows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moola.config import names
from moola.config.base import check_count, check_seeds
from moola.config.sweep import Range, Space, configured
from moola.config.training import FinetuneConfig
from moola.data.splits import WalkForward
from moola.data.store.data_store import DataStore, WindowSet
from moola.errors import ConfigError
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.compare import paired_comparison
from moola.evaluation.metrics import compute_metrics
from moola.hashing import sha256_json
from moola.judging.calibrate import overlap_of
from moola.judging.folds import find_folds, folds_dataset, require_folds
from moola.judging.progress import Progress, silent
from moola.judging.seen import searched_on
from moola.judging.started_from import ready_to_start
from moola.models.device import describe_device, resolve_device
from moola.tracking.lineage import git_state, run_name
from moola.tracking.mlflow_run import TrackedRun, child_run, tracked_run
from moola.tracking.training_log import TrainingsLog, without_encoder
from moola.training.crossval import (
    Trainee,
    Training,
    WalkForwardPredictions,
    walk_forward_predictions,
)
from moola.training.launchers import Launcher, LocalLauncher

if TYPE_CHECKING:
    import optuna

STUDIES = Path("artifacts/sweeps")
_FIGURES = ("log_loss", "brier", "roc_auc", "balanced_accuracy", "ece")


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """What a search found.

    Attributes
    ----------
    rows
        A row a configuration, the smallest log-loss first: trial, options, metrics.
    best
        The configuration of the first row.
    against_start
        Log-loss of the best less that of the options the search started from, with its interval;
        None where these lie outside the space.
    """

    run_id: str
    study: Path
    rows: tuple[Mapping[str, Any], ...]
    best: FinetuneConfig
    against_start: Mapping[str, float | None] | None
    num_windows: int
    seeds: tuple[int, ...]

    @property
    def warning(self) -> str:
        """What the choice of the best of many does to its figures."""
        return (
            f"{len(self.rows)} configurations were tried on these windows, so the best of them "
            "looks better here than it is. The gates count them all on the same windows: search on "
            "earlier ones where you can"
        )


def sweep(
    base: FinetuneConfig,
    space: Space,
    *,
    trials: int = 20,
    seeds: tuple[int, ...] = (17,),
    folds: str | None = None,
    launcher: Launcher = LocalLauncher(),  # noqa: B008  frozen
    data_root: Path | str = "data",
    cache: Path = Path(names.EVALUATION_FOLDER),
    project: Path = Path(),
    studies: Path = STUDIES,
    progress: Progress = silent,
) -> SweepSummary:
    """Search until `trials` configurations are judged; log one parent run with a child run each.

    Optuna's tree-structured Parzen estimator proposes them, the options of `base` first. A search
    is known by its base, space, seeds and data: the same call goes on where it stopped, and more
    `trials` add to it. Finished fold x seed results are shared with ``moola evaluate``.

    Parameters
    ----------
    base
        Options that are not searched over, and the start of those that are.
    space
        What is searched over.
    trials
        Configurations to judge, those of earlier calls included.
    seeds
        Training seeds, averaged per window.
    folds
        Walk-forward folds; None takes those of the set.
    launcher
        Where the trainings run; the figures do not depend on it.
    data_root
        Root of the data store.
    cache
        Folder of finished fold x seed results.
    project
        Folder whose ``.moola/keys`` hold the gate runner's key, by which the search is counted.
    studies
        Folder of the studies, by which a search goes on.
    progress
        Told how far it is.

    Returns
    -------
    SweepSummary
        Every configuration that was judged, and the best.

    Raises
    ------
    ConfigError
        If Optuna is not installed, or there is no seed or trial.
    AuditError
        If an encoder's corpus reaches into a fold's validation windows.
    """
    check_count("trials", trials)
    check_seeds(seeds)
    _optuna()
    device = resolve_device(base.device)
    base = ready_to_start(base, cache)
    store = DataStore(data_root)
    labeled = store.load_set(base.labeled)
    plan = find_folds(store, labeled.name, folds)
    search = _Search(
        base=base, space=space, seeds=seeds, labeled=labeled, folds=plan,
        device=device, cache=cache, launcher=launcher,
    )  # fmt: skip
    opened = tracked_run(
        step="sweep",
        experiment=names.EXPERIMENT_FINETUNE,
        name=run_name("sweep", base.labeled, plan.name, seeds[0], git_state()),
        params={**search.asked, "trials": trials, "device_used": device},
        without=without_encoder(base),
        device=describe_device(device),
    )
    with opened as run, launcher.session(), TrainingsLog(run) as trainings:
        require_folds(store, labeled, plan, base, on_proof=run.proofs.log)
        num_windows = sum(len(fold.val) for fold in plan.folds)
        run.log_inputs([folds_dataset(labeled, plan, num_windows)])
        counted = searched_on(
            labeled, plan, search=search.key, tried=trials, data_root=data_root,
            project=project,
        )  # fmt: skip
        run.set_tags({names.TAG_SEARCHED: counted})
        study = search.open_study(studies)
        logged = 0
        while (num_finished := len(_finished(study))) < trials:
            progress("configurations", num_finished, trials)
            search.judge_one(study, trainings)
            logged = _log_so_far(run, _rows(study), logged)
        progress("configurations", num_finished, trials)
        rows = _rows(study)
        _log_so_far(run, rows, logged)
        best = search.configured(rows[0])
        bins = search.calibration(rows[0], trainings)
        run.proofs.log("calibration", {"trial": rows[0]["trial"], **bins})
        summary = SweepSummary(
            run_id=run.run_id,
            study=studies / f"{search.key}.db",
            rows=rows,
            best=best,
            against_start=search.against_start(best),
            num_windows=num_windows,
            seeds=seeds,
        )
        _log(run, summary)
    return summary


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What is searched, and on what a configuration is judged."""

    base: FinetuneConfig
    space: Space
    seeds: tuple[int, ...]
    labeled: WindowSet
    folds: WalkForward
    device: str
    cache: Path
    launcher: Launcher

    @property
    def asked(self) -> dict[str, Any]:
        """Options, seeds and space, JSON-ready."""
        space = [str(dimension) for dimension in self.space]
        return {**self.base.to_dict(), "seeds": list(self.seeds), "space": space}

    @property
    def key(self) -> str:
        """Name of the study: the same search finds it again."""
        data = {"data": self.labeled.sha256, "folds": self.folds.digest()}
        return sha256_json({**self.asked, **data})[:16]

    def configured(self, values: Mapping[str, Any]) -> FinetuneConfig:
        """Return the configuration with a trial's values."""
        return configured(self.base, {d.name: values[d.name] for d in self.space})

    def open_study(self, folder: Path) -> optuna.Study:
        """Open the study; what a killed process left half-done is asked for first."""
        optuna = _optuna()
        folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=self.key, storage=f"sqlite:///{folder / self.key}.db", load_if_exists=True
        )
        study.sampler = optuna.samplers.TPESampler(seed=self.seeds[0] + len(study.trials))
        if not study.trials and self._starts_inside():
            study.enqueue_trial({d.name: getattr(self.base, d.name) for d in self.space})
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
        return study

    def judge_one(self, study: optuna.Study, log: TrainingsLog) -> None:
        """Train and judge the next configuration the study proposes."""
        trial = study.ask()
        values = {d.name: _suggest(trial, d) for d in self.space}
        predictions = self._predict(
            self.configured(values), lambda _, training: log(f"trial-{trial.number}", training)
        )
        figures = compute_metrics(predictions.y, predictions.proba)
        trial.set_user_attr("figures", {name: figures[name] for name in _FIGURES})
        study.tell(trial, figures["log_loss"])

    def calibration(self, row: Mapping[str, Any], log: TrainingsLog) -> dict[str, Any]:
        """Return a trial's calibration, and log its trainings if an earlier call has made them."""
        predictions = self._predict(
            self.configured(row), lambda _, training: log(f"trial-{row['trial']}", training)
        )
        return calibration_bins(predictions.y, predictions.proba).to_dict()

    def against_start(self, best: FinetuneConfig) -> Mapping[str, float | None] | None:
        """Return log-loss of the best less that of the start, where that was judged too."""
        if not self._starts_inside():
            return None
        chosen, start = self._predict(best), self._predict(self.base)
        judged = overlap_of(self.labeled.times, chosen.rows)
        compared = paired_comparison(chosen.y, chosen.proba, start.proba, **judged)
        return compared.deltas["log_loss"].interval()

    def _starts_inside(self) -> bool:
        return all(d.holds(getattr(self.base, d.name)) for d in self.space)

    def _predict(
        self,
        config: FinetuneConfig,
        on_training: Callable[[str, Training], None] = lambda name, training: None,
    ) -> WalkForwardPredictions:
        return walk_forward_predictions(
            {"trial": Trainee(config=config, seeds=self.seeds)},
            self.labeled,
            self.folds,
            device=self.device,
            cache=self.cache,
            launcher=self.launcher,
            on_training=on_training,
        )["trial"]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "a search needs the package optuna, which is not installed",
            limit="the extra 'sweep'",
            remedy="Run pip install 'moola-ml[sweep]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _suggest(trial: optuna.Trial, dimension: Any) -> Any:
    if not isinstance(dimension, Range):
        return trial.suggest_categorical(dimension.name, dimension.values)
    suggest = trial.suggest_int if dimension.whole else trial.suggest_float
    return suggest(dimension.name, dimension.low, dimension.high, log=dimension.log)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(_optuna().trial.TrialState.COMPLETE,))


def _rows(study: optuna.Study) -> tuple[Mapping[str, Any], ...]:
    trials = sorted(_finished(study), key=lambda trial: (trial.value, trial.number))
    return tuple({"trial": t.number, **t.params, **t.user_attrs["figures"]} for t in trials)


def _log_so_far(run: TrackedRun, rows: tuple[Mapping[str, Any], ...], num_logged: int) -> int:
    """Log the table, and the course from where it was logged; return how far it is logged now."""
    if len(rows) == num_logged:
        return num_logged
    run.log_table(names.ARTIFACT_SWEEP_TABLE, rows)
    lowest = float("inf")
    course = []
    for step, row in enumerate(sorted(rows, key=lambda row: row["trial"])):
        lowest = min(lowest, row["log_loss"])
        course.append({"epoch": step, "trial_log_loss": row["log_loss"], "best_so_far": lowest})
    run.log_history(course[num_logged:])
    return len(rows)


def _log(run: TrackedRun, summary: SweepSummary) -> None:
    """Log figures and warning on the parent run, and a child run a configuration."""
    run.log_metrics({name: summary.rows[0][name] for name in _FIGURES})
    run.set_tags({names.TAG_REASON: summary.warning, names.TAG_NOTE: summary.warning})
    for row in summary.rows:
        figures = {name: row[name] for name in _FIGURES}
        tags = {names.TAG_STEP: "sweep"}
        with child_run(run, f"trial-{row['trial']}", tags=tags, metrics=figures) as child:
            child.log_params({k: v for k, v in row.items() if k not in figures})
