"""Pretrain an encoder, of any of the three kinds, and log what it saw and learned."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moola.config import names
from moola.config.pretraining import CorpusConfig
from moola.data.splits import Split
from moola.data.store.data_store import DataStore, WindowSet
from moola.evaluation.pages.plots import figure_to_array
from moola.judging.progress import NO_STATE, Progress, silent
from moola.models.device import describe_device, resolve_device, use_bf16
from moola.models.fitting.resume import find_state, path_of_state
from moola.models.weights.checkpoint import read_config
from moola.pretraining.corpus import split_by_time
from moola.pretraining.data_augmentation import TimeSeriesAugmenter
from moola.pretraining.distributed import Share, join_processes
from moola.pretraining.kinds import KINDS, Kind, Quality
from moola.pretraining.plots import history_figure, reconstruction_figure, spectrum_figure
from moola.pretraining.session import PretrainResult, Session, export_pt, save_pretrained
from moola.tracking.lineage import dataset_input, git_state, run_name
from moola.tracking.mlflow_run import TrackedRun, tracked_run


@dataclass(frozen=True, kw_only=True)
class PretrainSummary:
    """What a pretraining run made.

    Processes that torchrun started beside the leading one have no run: `run_id` is empty.
    """

    title: str
    monitor: str
    run_id: str
    encoder: Path
    encoder_sha256: str
    device: str
    num_windows: int
    result: PretrainResult[Any]
    quality: Quality | None
    seconds: float


def pretrain(
    config: CorpusConfig,
    *,
    data_root: Path | str = "data",
    output: Path = Path(names.DEFAULT_ENCODER),
    resume: bool = False,
    progress: Progress = silent,
) -> PretrainSummary:
    """Pretrain an encoder, write its checkpoint and log the run.

    Parameters
    ----------
    config
        What to train; its class says which kind.
    data_root
        Root of the data store.
    output
        Checkpoint folder; it is replaced only when training has succeeded. A name that ends in
        ``.pt`` asks for that form too: the folder is then the name without it.
    resume
        Go on from the state that an interrupted run of the same configuration left in
        ``artifacts/resume/``; where no state of this kind lies there, begin.
    progress
        Told how far it is.

    Returns
    -------
    PretrainSummary
        The encoder, its digest, and how good it is on held-out windows.

    Raises
    ------
    ConfigError
        If only states of other configurations of this kind lie there.
    AuditError
        If the corpus is not what its recipe makes of its bars.
    """
    kind = KINDS[type(config)]
    device = resolve_device(config.device)
    folder = output.with_suffix("") if output.suffix == ".pt" else output
    state = path_of_state(Path(names.RESUME_FOLDER), f"pretrain-{kind.name}", config.to_dict())
    begins_anew = resume and not find_state(state)
    params = {**config.to_dict(), "device_used": device, "bf16": use_bf16(config.amp, device)}
    sha256, quality = "", None
    with ExitStack() as stack:
        share = stack.enter_context(join_processes(device))
        run = None
        if share.leads:
            params = {**params, "output": output, "processes": share.size}
            run = stack.enter_context(_run(kind, config, params, device))
            if begins_anew:
                progress(*NO_STATE)
        store = DataStore(data_root)
        corpus = store.load_unlabeled(config.unlabeled)
        X = corpus["X_ohlc"]
        if run is not None:
            _log_data(run, config, store, corpus["windows"])
        started = time.perf_counter()
        logged: list[int] = []

        def on_epoch(row: dict[str, float], total: int) -> None:
            assert run is not None
            with run.unhurried():
                run.log_history([row])
            logged.append(int(row["epoch"]))
            note = f"{kind.monitor.removeprefix('val_')} {row[kind.monitor]:.4f}"
            progress("pretraining", int(row["epoch"]) + 1, total, note)

        session = Session(
            device=device,
            on_epoch=on_epoch if share.leads else None,
            state_path=state,
            resume=resume,
            share=share,
        )
        result = kind.pretrain(X, config, session)
        seconds = time.perf_counter() - started
        if run is not None:
            sha256 = save_pretrained(folder, kind.name, result, config, corpus["claim"])
            if output.suffix == ".pt":
                export_pt(output, result.model, read_config(folder))
            block = -(-X.shape[1] // max(1, int(corpus["metadata"]["step_bars"])))
            quality = kind.measure(result.model, np.asarray(X[result.val_rows]), config, block)
            run.log_history([row for row in result.history if row["epoch"] not in logged])
            _log(run, kind, config, result, corpus=corpus, folder=folder, seconds=seconds)
            _log_quality(run, kind, result, quality)
    if share.leads:
        state.unlink(missing_ok=True)
    return PretrainSummary(
        title=kind.title,
        monitor=kind.monitor,
        run_id=run.run_id if run else "",
        encoder=folder,
        encoder_sha256=sha256,
        device=_device_words(device, share),
        num_windows=len(X),
        result=result,
        quality=quality,
        seconds=seconds,
    )


def _run(kind: Kind, config: CorpusConfig, params: dict[str, Any], device: str) -> Any:
    what = str(getattr(config, "mask_strategy", kind.name))
    return tracked_run(
        step="pretrain",
        experiment=names.EXPERIMENT_PRETRAIN,
        name=run_name(kind.run_name, config.unlabeled, what, config.seed, git_state()),
        params=params,
        without={
            "load_report": "no encoder to load: pretraining begins with random weights",
            "schedule": "nothing is frozen: pretraining trains every tensor in every epoch",
        }
        | ({"calibration": kind.uncalibrated} if kind.uncalibrated else {}),
        device=describe_device(device),
    )


def _log_data(run: TrackedRun, config: CorpusConfig, store: DataStore, corpus: WindowSet) -> None:
    """Log the corpus and its split, derive it again from its bars, and refuse it if it differs."""
    claim = corpus.claim()
    train, held_out = split_by_time(len(corpus), corpus.X_ohlc.shape[1], config.val_split)
    split = Split(
        name=f"{claim.name.rpartition('/')[2]}/latest-{config.val_split:g}",
        labeled=claim.name,
        labeled_sha256=claim.sha256,
        strategy="forward_chaining",
        train=train,
        val=held_out,
        test=train[:0],
        purged=np.arange(len(train), len(corpus) - len(held_out), dtype=np.int64),
    )
    run.proofs.log("split", split.to_dict())
    corpus_input = dataset_input(
        name=claim.name,
        sha256=claim.sha256,
        source=f"bars/{claim.source}",
        context="train",
        shape=corpus.X_ohlc.shape,
    )
    run.log_inputs([corpus_input])
    audit = store.audit_corpus(corpus, train, held_out)
    run.proofs.log("audit", audit.to_dict())
    audit.require()


def _device_words(device: str, share: Share) -> str:
    words = describe_device(device)
    return words if share.alone else f"{share.size} x {words}"


def _log(
    run: TrackedRun,
    kind: Kind,
    config: CorpusConfig,
    result: PretrainResult[Any],
    *,
    corpus: dict[str, Any],
    folder: Path,
    seconds: float,
) -> None:
    claim = corpus["claim"]
    best = result.history[result.kept_epoch]
    run.log_metrics({f"best_{kind.monitor}": best[kind.monitor], "seconds": seconds})
    audit = {
        "corpus": claim.to_dict(),
        "windows": {"train": len(result.train_rows), "val": len(result.val_rows)},
        "recipe": corpus["manifest"]["recipe"],
    }
    facts = {
        "run_id": run.run_id,
        "git": run.git.commit,
        "git_dirty": run.git.dirty,
        "config": config.to_dict(),
        "history": list(result.history),
        "kept_epoch": result.kept_epoch,
        "resumed_at": result.resumed_at,
        "audit": audit,
    }
    if getattr(config, "augment", False):
        facts["augmentation"] = TimeSeriesAugmenter().settings
    run.log_json(names.ARTIFACT_MANIFEST, facts)
    for file in sorted(folder.iterdir()):
        run.log_bytes(names.ARTIFACT_ENCODER.format(file=file.name), file.read_bytes())
    run.set_tags(
        {
            names.TAG_NOTE: f"{kind.title} on `{claim.name}` ({claim.first_bar[:10]} to "
            f"{claim.last_bar[:10]}). Best {kind.monitor} {best[kind.monitor]:.4f} in epoch "
            f"{result.kept_epoch + 1} of {len(result.history)}."
        }
    )


def _log_quality(
    run: TrackedRun, kind: Kind, result: PretrainResult[Any], quality: Quality
) -> None:
    figures = {
        "loss_curves": history_figure(result.history, ("train_loss", *kind.curves)),
        "embedding_spectrum": spectrum_figure(
            quality.variance_shares, quality.figures["effective_rank"]
        ),
    }
    if quality.reconstruction is not None:
        num = len(quality.reconstruction.mask)
        figures["reconstruction"] = reconstruction_figure(
            quality.reconstruction, sorted({0, num // 2, num - 1})
        )
        run.log_json(names.ARTIFACT_MASKED_ERROR, {"rows": quality.error_rows})
    if quality.calibration is not None:
        run.proofs.log("calibration", quality.calibration)
    for name, figure in figures.items():
        run.log_picture(names.ARTIFACT_PLOT.format(plot=name), name, figure_to_array(figure))
    run.log_metrics(quality.figures)
