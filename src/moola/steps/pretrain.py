"""Pretrain the masked BiLSTM encoder and log what it saw and learned."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moola.config import names
from moola.config.pretraining import PretrainConfig
from moola.data.registry import DataRegistry
from moola.pretraining.masked_lstm_pretrain import (
    MaskedLSTMPretrainer,
    PretrainResult,
    save_encoder,
)
from moola.steps.progress import Progress, silent
from moola.tracking.lineage import dataset_input, git_state, run_name
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.training.device import describe_device, resolve_device


@dataclass(frozen=True, kw_only=True)
class PretrainSummary:
    """What a pretraining run made."""

    run_id: str
    encoder: Path
    encoder_sha256: str
    device: str
    num_windows: int
    result: PretrainResult
    seconds: float


def pretrain(
    config: PretrainConfig,
    *,
    data_root: Path | str = "data",
    output: Path = Path(names.DEFAULT_ENCODER),
    progress: Progress = silent,
) -> PretrainSummary:
    """Pretrain an encoder, write its checkpoint and log the run.

    Parameters
    ----------
    config
        What to train.
    data_root
        Root of the data registry.
    output
        Checkpoint folder; it is replaced only when training has succeeded.
    """
    device = resolve_device(config.device)
    name = run_name(
        "bilstm-encoder", config.unlabeled, config.mask_strategy, config.seed, git_state()
    )
    with tracked_run(
        step="pretrain",
        experiment=names.EXPERIMENT_PRETRAIN,
        name=name,
        params={**config.to_dict(), "device_used": device, "output": output},
        device=describe_device(device),
    ) as run:
        corpus = DataRegistry(data_root).load_unlabeled(config.unlabeled)
        claim, X = corpus["claim"], corpus["X_ohlc"]
        started = time.perf_counter()

        def on_epoch(row: dict[str, float], total: int) -> None:
            note = f"masked error {row['val_recon']:.4f}"
            progress("pretraining", int(row["epoch"]) + 1, total, note)

        result = MaskedLSTMPretrainer(config, device=device).pretrain(X, on_epoch=on_epoch)
        seconds = time.perf_counter() - started
        sha256 = save_encoder(output, result, config, claim)
        _log(run, config, result, corpus=corpus, output=output, seconds=seconds)
    return PretrainSummary(
        run_id=run.run_id,
        encoder=output,
        encoder_sha256=sha256,
        device=describe_device(device),
        num_windows=len(X),
        result=result,
        seconds=seconds,
    )


def _log(
    run: TrackedRun,
    config: PretrainConfig,
    result: PretrainResult,
    *,
    corpus: dict[str, Any],
    output: Path,
    seconds: float,
) -> None:
    claim = corpus["claim"]
    best = result.history[result.kept_epoch]
    run.log_inputs(
        [
            dataset_input(
                name=claim.name,
                sha256=claim.sha256,
                source=f"bars/{claim.source}",
                context="train",
                shape=corpus["X_ohlc"].shape,
            )
        ]
    )
    run.log_history(result.history)
    run.log_metrics({"best_val_recon": best["val_recon"], "seconds": seconds})
    audit = {
        "corpus": claim.to_dict(),
        "windows": {"train": len(result.train_rows), "val": len(result.val_rows)},
        "recipe": corpus["manifest"]["recipe"],
    }
    run.log_json(names.ARTIFACT_AUDIT, audit)
    run.log_json(
        names.ARTIFACT_MANIFEST,
        {
            "run_id": run.run_id,
            "git": run.git.commit,
            "git_dirty": run.git.dirty,
            "config": config.to_dict(),
            "history": list(result.history),
            "kept_epoch": result.kept_epoch,
            "audit": audit,
        },
    )
    for file in sorted(output.iterdir()):
        run.log_bytes(f"encoder/{file.name}", file.read_bytes())
    run.set_tags(
        {
            "mlflow.note.content": f"Masked BiLSTM encoder, {config.hidden_dim} x "
            f"{config.num_layers}, on `{claim.name}` ({claim.first_bar[:10]} to "
            f"{claim.last_bar[:10]}). Best masked error {best['val_recon']:.4f} in epoch "
            f"{result.kept_epoch + 1}."
        }
    )
