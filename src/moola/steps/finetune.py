"""Train one candidate, prove how, and register it as a version."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import moola.training.finetune
from moola.config import names
from moola.config.packaging import CHECKPOINT
from moola.config.training import FinetuneConfig
from moola.data.audit.trail import CorpusClaim
from moola.data.labels import class_names
from moola.data.store.data_store import DataContainer, DataStore
from moola.errors import ConfigError
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.conformal import conformal_threshold
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.pages.plots import (
    figure_to_array,
    figure_to_png,
    reliability_figure,
)
from moola.evaluation.temperature import apply_temperature
from moola.judging.calibrate import Calibration, calibrate
from moola.judging.candidate import register
from moola.judging.predictions import log_diagrams, predictions_table
from moola.judging.progress import NO_STATE, Progress, silent
from moola.judging.started_from import keep_encoder, ready_to_start
from moola.models import REGISTRY
from moola.models.device import describe_device, resolve_device
from moola.models.fitting.resume import find_state
from moola.serving.pyfunc import log_model
from moola.tracking.lineage import git_state, part_input, run_name
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.tracking.training_log import FROM_SCRATCH, NO_GRADIENT, RunWitness, without_encoder
from moola.training.crossval import class_frequencies
from moola.training.finetune import FinetuneResult, encoder_claim, epoch_line, resume_path
from moola.training.heatmap import evolution_figure
from moola.training.stored_config import (
    ENCODER_SHA256,
    TRAINED_AS,
    encoder_name,
    require_statable,
)
from moola.training.witness import refusal_reported


@dataclass(frozen=True, kw_only=True)
class FinetuneSummary:
    """What a fine-tuning run made; everything the status report shows."""

    run_id: str
    run_name: str
    git: str
    device: str
    config: FinetuneConfig
    num_parameters: int
    audit: Mapping[str, Any]
    result: FinetuneResult
    calibration: Calibration
    metrics: Mapping[str, float | None]
    yardsticks: Mapping[str, float | None]
    registered_as: str | None
    version: str | None
    seconds: float


def finetune(
    config: FinetuneConfig,
    *,
    data_root: Path | str = "data",
    register_as: str | None = names.REGISTERED_MODEL,
    resume: bool = False,
    progress: Progress = silent,
) -> FinetuneSummary:
    """Train a classifier on the train part, calibrate it on val, log it, register it.

    The locked test part is neither predicted nor measured here.

    Parameters
    ----------
    config
        What to train and how.
    data_root
        Root of the data store.
    register_as
        Registered model that gets a new version; None registers nothing.
    resume
        Go on from the state that an interrupted run of the same configuration left in
        ``artifacts/resume/``; where no state of this model lies there, begin.
    progress
        Told how far it is.

    Returns
    -------
    FinetuneSummary
        What was trained, how it was proven, and the version it became.

    Raises
    ------
    ConfigError
        If the model cannot be registered, or only states of other configurations lie there.
    AuditError
        If the data audit finds a leak, or an encoder does not state its corpus.
    ProofError
        If the encoder was not trained as its freeze schedule says.
    """
    device = _device(config, resume=resume)
    store = DataStore(data_root)
    _require_stored(config, store)  # a name that is not there leaves no run behind
    config = ready_to_start(config)
    state_path = resume_path(config, Path(names.RESUME_FOLDER))
    if resume and not find_state(state_path):
        progress(*NO_STATE)
    name = run_name(config.model, config.labeled, config.split, config.seed, git_state())
    with tracked_run(
        step="finetune",
        experiment=names.EXPERIMENT_FINETUNE,
        name=name,
        params={**config.to_dict(), "device_used": device},
        without=without_encoder(config),
        device=describe_device(device),
    ) as run:
        corpus = _claimed(config)
        data = store.load_labeled(
            config.labeled,
            config.split,
            bool(config.synthetic),
            config.synthetic,
            corpus=corpus,
            on_proof=run.proofs.log,
        )
        _log_inputs(run, data)
        require_statable(config, class_names(data.labeled.recipe))
        encoder = _started_from(run, config)
        started = time.perf_counter()
        result = moola.training.finetune.finetune(
            config,
            data.X_train,
            data.y_train,
            validation=(data.X_val, data.y_val),
            gap_windows=data.labeled.times.gap_windows(data.split.train),
            device=device,
            on_epoch=partial(_tell, progress),
            witness=RunWitness(run),
            state_path=state_path,
            resume=resume,
        )
        seconds = time.perf_counter() - started
        raw = result.model.predict_proba(data.X_val)
        calibration = calibrate(data, raw)
        proba = apply_temperature(raw, calibration.temperature)
        metrics = compute_metrics(data.y_val, proba)
        _log_proof(run, config, result)
        _log_results(run, config, data, result, raw=raw, proba=proba, calibration=calibration)
        run.require_store("registering the model")
        with run.active():
            stated = _stated(config, data, calibration.temperature, proba) | encoder
            model_info = _log_model(data, result, stated)
        val_input = part_input(data, "val", "validation")
        run.log_metrics(metrics, model_id=model_info.model_id, dataset=val_input)
        run.log_metrics({"training_seconds": seconds, "temperature": calibration.temperature})
        yardsticks = _yardsticks(data)
        run.log_metrics(yardsticks)
        version = register(run, config, register_as, model_info.model_id) if register_as else None
        run.set_tags({names.TAG_NOTE: _note(config, data, result, metrics)})
    state_path.unlink(missing_ok=True)
    return FinetuneSummary(
        run_id=run.run_id,
        run_name=name,
        git=run.git.short,
        device=describe_device(device),
        config=config,
        num_parameters=result.model.num_parameters,
        audit=data.audit_trail,
        result=result,
        calibration=calibration,
        metrics=metrics,
        yardsticks=yardsticks,
        registered_as=register_as,
        version=version,
        seconds=seconds,
    )


def _device(config: FinetuneConfig, *, resume: bool) -> str:
    """Return where to train; raises ConfigError for what cannot be registered or resumed."""
    if config.model not in REGISTRY:
        limit = f"one of {', '.join(REGISTRY)}"
        raise ConfigError(f"model {config.model!r} cannot be registered", limit=limit)
    if REGISTRY[config.model].is_net:
        return resolve_device(config.device)
    if resume:
        raise ConfigError(
            f"model {config.model} is fitted at once and leaves no state to resume",
            limit="a net, which is trained in epochs",
            remedy="Leave out --resume",
        )
    return "cpu"


def _require_stored(config: FinetuneConfig, store: DataStore) -> None:
    store.folder(config.labeled)
    store.load_split(config.split)
    if config.synthetic:
        store.folder(config.synthetic)


def _claimed(config: FinetuneConfig) -> CorpusClaim | None:
    """Return what the encoder says it was trained on; a refusal is a load report too."""
    if config.pretrained_encoder is None:
        return None
    with refusal_reported(config.pretrained_encoder):
        return encoder_claim(config.pretrained_encoder)


def _yardsticks(data: DataContainer) -> dict[str, float | None]:
    """Return what answers on val without any model are worth: the class prior, and one class."""
    num_classes = data.labeled.num_classes
    prior = np.tile(class_frequencies(data.y_train, num_classes), (len(data.y_val), 1))
    worth = compute_metrics(data.y_val, prior)
    return dict(zip(names.YARDSTICKS, (worth["log_loss"], worth["accuracy"]), strict=True))


def _started_from(run: TrackedRun, config: FinetuneConfig) -> dict[str, str]:
    """Keep the encoder in the run, where the gates find it; return its digest for the version."""
    if config.pretrained_encoder is None:
        run.log_json(names.ARTIFACT_LOAD_REPORT, {"loaded": False, "reason": FROM_SCRATCH})
        return {}
    with refusal_reported(config.pretrained_encoder):
        return {ENCODER_SHA256: keep_encoder(run, Path(config.pretrained_encoder))}


def _tell(progress: Progress, row: dict[str, Any], total: int) -> None:
    line = epoch_line(row, total).partition("] ")[2]
    progress("training", int(row["epoch"]) + 1, total, line)


def _log_inputs(run: TrackedRun, data: DataContainer) -> None:
    parts = (("train", "train"), ("val", "validation"), ("test", "test"))
    run.log_inputs([part_input(data, part, context) for part, context in parts])


def _log_proof(run: TrackedRun, config: FinetuneConfig, result: FinetuneResult) -> None:
    """Log the proof of the whole schedule; what was known before, `RunWitness` has logged."""
    if result.schedule is None:
        run.proofs.none("schedule", NO_GRADIENT)
        return
    schedule = {"schedule": result.schedule, "proof": result.proof}
    run.proofs.log("schedule", schedule)
    if result.evolution is not None:
        run.log_parquet(names.ARTIFACT_WEIGHT_EVOLUTION, result.evolution)
        heat_map = evolution_figure(result.evolution, f"{config.model}, {config.schedule}")
        pixels = figure_to_array(heat_map)
        run.log_picture(names.ARTIFACT_WEIGHT_PICTURE, names.IMAGE_WEIGHTS, pixels)


def _log_results(
    run: TrackedRun,
    config: FinetuneConfig,
    data: DataContainer,
    result: FinetuneResult,
    *,
    raw: np.ndarray,
    proba: np.ndarray,
    calibration: Calibration,
) -> None:
    """Log predictions on val, calibration, plots and the manifest."""
    y, labels = data.y_val, class_names(data.labeled.recipe)
    table = predictions_table(data.split.val, y, labels, probability=proba, uncalibrated=raw)
    run.log_parquet(names.ARTIFACT_PREDICTIONS.format(part="val"), table)
    bins = {"before": calibration_bins(y, raw), "after": calibration_bins(y, proba)}
    run.proofs.log(
        "calibration",
        {"calibration": asdict(calibration), **{k: v.to_dict() for k, v in bins.items()}},
    )
    log_diagrams(run, y, proba, labels, title=f"{config.model}, validation windows")
    if calibration.temperature != 1.0:
        before = reliability_figure(y, raw, title=f"{config.model}, before its temperature")
        run.log_bytes(names.ARTIFACT_RELIABILITY_BEFORE, figure_to_png(before))
    run.log_json(
        names.ARTIFACT_MANIFEST,
        {
            "run_id": run.run_id,
            "git_commit": run.git.commit,
            "git_dirty": run.git.dirty,
            "model": config.model,
            "config": config.to_dict(),
            "num_parameters": result.model.num_parameters,
            "data": dict(data.audit_trail),
            "pretrained": result.load_report or {"loaded": False},
            "freeze": result.schedule,
            "freeze_proof": result.proof,
            "calibration": asdict(calibration),
            "metrics": {
                "uncalibrated": compute_metrics(y, raw),
                "calibrated": compute_metrics(y, proba),
            },
            "training": {
                "epochs": len(result.history),
                "kept_epoch": result.proof["kept_epoch"] if result.proof else None,
                "resumed_at": result.resumed_at,
            },
        },
    )


def _stated(
    config: FinetuneConfig, data: DataContainer, temperature: float, proba: np.ndarray
) -> dict[str, Any]:
    """Return what the version's configuration holds beside the estimator's own."""
    name = encoder_name(config.pretrained_encoder) if config.pretrained_encoder else None
    return {
        "temperature": temperature,
        "class_names": list(class_names(data.labeled.recipe)),
        "conformal": asdict(conformal_threshold(data.y_val, proba)),
        TRAINED_AS: {**config.to_dict(), "pretrained_encoder": name},
    }


def _log_model(data: DataContainer, result: FinetuneResult, stated: Mapping[str, Any]) -> Any:
    labels = tuple(stated["class_names"])
    with tempfile.TemporaryDirectory(prefix="moola-model-") as folder:
        checkpoint = Path(folder) / CHECKPOINT
        result.model.save(checkpoint, extra=dict(stated))
        return log_model(checkpoint, window_bars=data.labeled.X_ohlc.shape[1], class_names=labels)


def _note(
    config: FinetuneConfig,
    data: DataContainer,
    result: FinetuneResult,
    metrics: Mapping[str, float | None],
) -> str:
    """Return the run in one paragraph of Markdown."""
    start = "from scratch"
    if load := result.load_report:
        start = f"from an encoder of which {load['match_ratio_encoder']:.0%} was loaded"
    how = NO_GRADIENT
    if result.proof:
        proven = "proven" if result.proof["proven"] else "not proven"
        how = f"freeze schedule `{config.schedule}`, {proven}"
    shown = ("log_loss", "roc_auc", "balanced_accuracy", "ece")
    figures = ", ".join(f"{k} {v:.4f}" for k in shown if (v := metrics[k]) is not None)
    return (
        f"**{config.in_words}** {start}, on `{config.labeled}` under `{config.split}`, seed "
        f"{config.seed}; {how}. "
        f"On {len(data.y_val)} validation windows: {figures}. {len(data.y_test)} test windows "
        "have not been looked at."
    )
