"""`moola demo`: the whole job once, on real hourly bars, with what it means in words."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from moola.cli.console import console, progress_bars
from moola.cli.reports import print_decision, print_evaluation, print_finetune, print_pretrain
from moola.config import names
from moola.config.training import FinetuneConfig
from moola.errors import TrackingError

SEEDS = (17, 18)
GATES = (0, 1, 2, 6, 7)  # no candidate of the demo augments, so gate 5 is left to moola evaluate
ENCODER_GATES = (0, 1, 2, 3, 4, 6, 7)
BTC = FinetuneConfig(preset="compact", unfreeze_after=4, epochs=12, patience=0)
EURUSD = replace(
    BTC,
    labeled="labeled_windows/v2",
    split="splits/fwd_chain_v2_eurusd.json",
    epochs=15,
    learning_rate=1e-3,
)
_SERVE_SECONDS = 90.0


def run_demo(*, device: str, data_root: str, jobs: int) -> None:
    """Build, pretrain, train, judge, promote what may be promoted, serve, predict."""
    import torch

    from moola.models.device import resolve_device

    resolve_device(device)
    torch.set_num_threads(1)  # the nets are small: waking a second thread costs more than it does
    out = console()
    started = time.perf_counter()

    def heading(text: str) -> None:
        out.print(f"\n{time.perf_counter() - started:5.0f} s  {text}", style="bold cyan")

    heading("1  Build the window sets from the bars that ship with Moola, and audit them")
    _build(data_root)
    heading("2  Pretrain a small masked BiLSTM encoder on unlabelled BTCUSD bars")
    encoder = Path("artifacts/pretrained/demo_encoder")
    _pretrain(device, data_root, encoder)
    heading("3  Train EnhancedSimpleLSTM and register each candidate as a version")
    configs = {
        "BTCUSD from scratch": BTC,
        "BTCUSD, encoder": replace(BTC, pretrained_encoder=str(encoder)),
        "EURUSD from scratch": EURUSD,
    }
    candidates = {_train(c, device, data_root): what for what, c in configs.items()}
    heading("4  Gates: each version trained again on five walk-forward folds, seeds averaged")
    for version, what in candidates.items():
        gates = ENCODER_GATES if configs[what].pretrained_encoder else GATES
        _evaluate(version, gates, device, data_root, jobs)
    heading("5  Ask for Production: evidence first, the locked test windows last")
    outcome = {version: _promote(version, data_root) for version in candidates}
    heading("6  Serve with `mlflow models serve` and ask for three real windows")
    _serve(data_root)
    heading("Done")
    for version, what in candidates.items():
        out.print(f"  version {version} ({what}): {outcome[version]}")
    out.print("\nLook at the runs: `make ui`, then open http://127.0.0.1:5000")


def _build(data_root: str) -> None:
    from moola.data.shipped import copy_shipped_bars
    from moola.data.store.data_store import DataStore

    copy_shipped_bars(data_root)
    store = DataStore(data_root)
    digests = store.build()
    for name, digest in digests.items():
        console().print(f"  {name:<36}{digest[:16]}")
    corpus = store.load_unlabeled()["claim"]
    audit = store.load_labeled(corpus=corpus).audit_trail
    passed = sum(c["passed"] for c in audit["checks"])
    console().print(f"  audit: {passed} of {len(audit['checks'])} checks passed, e.g.")
    for check in audit["checks"][-2:]:
        console().print(f"    {check['name']}: {check['detail']}")


def _pretrain(device: str, data_root: str, encoder: Path) -> None:
    from moola.config.pretraining import PretrainConfig
    from moola.steps.pretrain import pretrain

    config = PretrainConfig(
        hidden_dim=32,
        num_layers=1,
        epochs=20,
        windows_per_epoch=1024,
        batch_size=64,
        learning_rate=3e-3,
        device=device,
    )
    with progress_bars() as progress:
        summary = pretrain(config, data_root=data_root, output=encoder, progress=progress)
    print_pretrain(summary)


def _train(config: FinetuneConfig, device: str, data_root: str) -> str:
    from moola.steps.finetune import finetune

    with progress_bars() as progress:
        summary = finetune(replace(config, device=device), data_root=data_root, progress=progress)
    print_finetune(summary)
    assert summary.version is not None
    return summary.version


def _evaluate(version: str, gates: tuple[int, ...], device: str, data_root: str, jobs: int) -> None:
    from moola.config.evaluation import EvaluateConfig
    from moola.steps.evaluate import evaluate
    from moola.training.launchers import LocalLauncher

    with progress_bars() as progress:
        summary = evaluate(
            version=version,
            config=EvaluateConfig(seeds=SEEDS, gates=gates),
            launcher=LocalLauncher(jobs=jobs),
            device=device,
            data_root=data_root,
            progress=progress,
        )
    print_evaluation(summary)


def _promote(version: str, data_root: str) -> str:
    """Ask for Production and return the outcome in words."""
    from moola.errors import PromotionRefused
    from moola.steps.promote import promote

    try:
        summary = promote(version=version, data_root=data_root)
    except PromotionRefused as refusal:
        console().print(f"  refused: {refusal}")
        return f"refused. {refusal}"
    print_decision(summary.decision, summary.record)
    return "in Production"


def _serve(data_root: str) -> None:
    """Serve Production, or where nothing was ever promoted the newest version, and ask it."""
    from mlflow import MlflowException

    from moola.data.store.data_store import DataStore
    from moola.tracking.store import connect

    out = console()
    target = names.STAGE_PRODUCTION
    try:
        connect().get_model_version_by_alias(names.REGISTERED_MODEL, names.ALIAS_PRODUCTION)
    except MlflowException:
        out.print("  Production is empty; the newest version answers, as a rehearsal only")
        target = "latest"
    uri = f"models:/{names.REGISTERED_MODEL}/{target}"
    windows = DataStore(data_root).load_set(EURUSD.labeled).X_ohlc[-3:].tolist()
    with _mlflow_server(uri) as port:
        out.print(f"  mlflow models serve -m {uri} --env-manager local  (127.0.0.1:{port})")
        answer = _ask(port, {"inputs": windows})
    for row in answer["predictions"]:
        out.print(f"  {json.dumps(row)}")


@contextmanager
def _mlflow_server(uri: str) -> Iterator[int]:
    """Run `mlflow models serve` on a free local port, yielded, for the length of the block."""
    import mlflow

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words, "-h", "127.0.0.1", "-p", str(port)],
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for(process, port, log)
            yield port
        finally:
            _stop(process)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _SERVE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    code = process.poll()
    ended = f"did not answer within {_SERVE_SECONDS:g} s" if code is None else f"ended with {code}"
    log.seek(0)
    last_line = log.read().decode(errors="replace").strip().rpartition("\n")[2] or "nothing"
    raise TrackingError(
        f"mlflow models serve {ended}; the last it said: {last_line}",
        remedy="The versions are registered; serve one by hand to see more",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ask(port: int, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())
