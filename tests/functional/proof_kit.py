"""Every entry point with a way to end it in the middle, and its proofs read by MlflowClient."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from data_kit import bars_of, reseal, small_registry, walk, write_bars
from mlflow import MlflowClient
from mlflow.entities import Run
from promotion_kit import evaluate as sign

from moola.config import names
from moola.config.data import SplitRecipe, WindowRecipe
from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.config.pretraining import MultitaskConfig, PretrainConfig, TS2VecConfig
from moola.config.sweep import parse_space
from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key
from moola.serving.kept import Answered, PredictionLog
from moola.steps.ablate import ablate
from moola.steps.drift import drift
from moola.steps.evaluate import evaluate
from moola.steps.finetune import finetune
from moola.steps.predict import load_scorer
from moola.steps.pretrain import pretrain
from moola.steps.promote import promote
from moola.steps.sweep import sweep
from moola.tracking.proofs import PROOFS

TRAIN = FinetuneConfig(
    preset="compact", labeled="labeled_windows/v1", split="splits/fwd.json",
    epochs=3, unfreeze_after=1, patience=0, learning_rate=2e-3, device="cpu",
)  # fmt: skip
CORPUS = {"windows_per_epoch": 64, "batch_size": 32, "device": "cpu"}
PRETRAIN = {
    "pretrain masked": PretrainConfig(
        hidden_dim=32, num_layers=1, epochs=2, patch_size=3, **CORPUS
    ),
    "pretrain ts2vec": TS2VecConfig(hidden_dim=4, output_dim=6, depth=2, epochs=2, **CORPUS),
    "pretrain multitask": MultitaskConfig(
        hidden_dim=4, num_layers=1, epochs=2, horizon_bars=2, **CORPUS
    ),
}
ENTRIES = (
    *PRETRAIN, "train scratch", "train encoder", "evaluate", "ablate", "sweep", "drift", "promote",
)  # fmt: skip
NAME = "Judged"
ENCODER = Path("encoder")
KEPT = Path("kept")
_IMPORTED_ONCE = [f"moola.steps.{name}" for name in (*names.STEPS, "predict")]
Stop = Callable[[], None]


def never() -> None:
    """Let it go on to its end."""


def fail() -> None:
    raise RuntimeError("a bug of the test's")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make_world(folder: Path, template_db: Path) -> None:
    """Make a project in the working directory: sets, corpus and an encoder."""
    shutil.copy(template_db, folder / "mlflow.db")
    registry = small_registry(folder / "data", num_bars=1200, swing=2.0)
    folds = SplitRecipe(labeled="labeled_windows/v1", strategy="walk_forward", num_folds=2)
    registry.build_split("walk", folds)
    write_bars(folder / "data", bars_of(walk(600, seed=5), name="early"))
    corpus = WindowRecipe(source="early", window_bars=12, step_bars=3, horizon_bars=3, label="none")
    registry.build_set("unlabeled_windows/v1", corpus)
    start("pretrain masked", never)


def make_versions(folder: Path) -> None:
    """Add two versions, the first one signed, and what it answered when it was served."""
    for entry in ("train encoder", "train scratch"):
        start(entry, never, register_as=NAME)
    ensure_signing_key(folder)
    client = MlflowClient()
    registry = DataStore(folder / "data")
    client.create_experiment("work", artifact_location=(folder / "work").as_uri())
    windows, split = registry.load_set("labeled_windows/v1"), registry.load_split("fwd")
    data = {
        "labeled": windows.name,
        "labeled_sha256": windows.sha256,
        "split": split.name,
        "split_sha256": split.digest(),
        "num_windows": 100,
    }
    verdicts = ("passed",) * 8
    document = {"data": data, "thresholds_sha256": Thresholds.load().digest()}
    key = load_signing_key(folder, env={})
    sign(client, key, "1", name=NAME, document=document, verdicts=verdicts, uses_encoder=True)
    scorer = load_scorer(f"models:/{NAME}/1")
    log = PredictionLog(KEPT)
    X = np.asarray(windows.X_ohlc[-200:])
    for k in range(0, len(X), 10):
        columns = scorer.columns(scorer.scores(scorer.logits(X[k : k + 10])))
        log.add(Answered(request_id=f"r{k}", X=X[k : k + 10], columns=columns))
    log.close()
    labels = [
        {"request_id": f"r{k}", "row": row, "label": int(windows.y[-200 + k + row])}
        for k in range(0, len(X), 10)
        for row in range(10)
    ]
    pd.DataFrame(labels).to_csv("labels.csv", index=False)


def start(entry: str, stop: Stop, data_root: Path = Path("data"), **changes: Any) -> None:
    """Run an entry point; `stop` is called once, when part of its work is done."""
    once = [stop]

    def told(task: str, done: int, total: int, note: str = "") -> None:
        far = done >= 1 and task.startswith(
            ("pretraining", "training", "walk-forward: t", "D", "c")
        )
        if far and once:
            once.pop()()

    cache = Path("cache") / stop.__name__  # nothing finished is found there
    if entry in PRETRAIN:
        output = ENCODER if stop is never and entry == "pretrain masked" else Path("other")
        pretrain(PRETRAIN[entry], data_root=data_root, output=output, progress=told)
    elif entry.startswith("train"):
        encoder = str(ENCODER) if entry == "train encoder" else None
        name = changes.pop("register_as", None)
        config = replace(TRAIN, **{"pretrained_encoder": encoder, **changes})
        finetune(config, register_as=name, data_root=data_root, progress=told)
    elif entry == "evaluate":
        config = EvaluateConfig(seeds=(1,), gates=(0, 4))
        options = {"device": "cpu", "data_root": data_root, "cache": cache, "progress": told}
        evaluate(name=NAME, config=config, **{"version": "1", **options, **changes})
    elif entry == "ablate":
        base = replace(TRAIN, pretrained_encoder=str(ENCODER))
        ablate(base, seeds=(1,), only="AD", data_root=data_root, cache=cache, progress=told)
    elif entry == "sweep":
        space = parse_space(["dropout=0:0.5"], TRAIN)
        studies = Path("studies") / stop.__name__
        sweep(
            TRAIN, space, trials=2, seeds=(1,), data_root=data_root, cache=cache,
            studies=studies, progress=told,
        )  # fmt: skip
    elif entry == "drift":
        with _stopping("moola.steps.drift.drift_report", stop):
            labels = Path("labels.csv")
            drift(KEPT, name=NAME, labels=labels, data_root=data_root, num_permutations=499)
    else:
        _empty_production()
        ledger = f"sqlite:///ledger-{stop.__name__}.db"
        with _stopping("moola.judging.examine.bars_seen", stop):
            version = changes.get("version", "1")
            promote(name=NAME, version=version, ledger_url=ledger, data_root=data_root)


def refuse(entry: str, folder: Path) -> None:
    """Run an entry point on what it must refuse: `folder` gets a spoilt copy of the data."""
    data = folder / "spoilt"
    shutil.copytree("data", data)
    if entry == "train encoder":
        start(entry, never, hidden_size=16)  # the encoder is of another size
    elif entry == "promote":
        start(entry, never, version="2")  # nothing is signed about it
    elif entry == "evaluate":
        (data / "splits" / "walk.json").unlink()
        start(entry, never, data)
    else:
        kind = "unlabeled_windows" if entry in PRETRAIN else "labeled_windows"
        scale_one_window(data / kind / "v1")
        start(entry, never, data)


def scale_one_window(windows: Path) -> None:
    """Multiply the prices of a window by 1.5 and write the digests anew, as a forger would."""
    X = np.load(windows / "X_ohlc.npy")
    X[20] *= 1.5
    np.save(windows / "X_ohlc.npy", X)
    reseal(windows)


def killed(entry: str, uri: str) -> int | None:
    """Run an entry point in a process of its own that is killed in the middle."""
    context = multiprocessing.get_context("forkserver")  # a fork of this one would hold its locks
    context.set_forkserver_preload(_IMPORTED_ONCE)
    process = context.Process(target=_in_process, args=(entry, str(Path.cwd()), uri))
    process.start()
    process.join(timeout=120)
    return process.exitcode


def _in_process(entry: str, folder: str, uri: str) -> None:
    os.chdir(folder)
    mlflow.set_tracking_uri(uri)
    start(entry, kill)


def _empty_production() -> None:
    """Take out of Production what an earlier promotion put there."""
    client = MlflowClient()
    version = client.get_registered_model(NAME).aliases.get("production")
    if version is not None:
        client.transition_model_version_stage(NAME, str(version), "None")
        client.delete_registered_model_alias(NAME, "production")


@contextmanager
def _stopping(function: str, stop: Stop) -> Iterator[None]:
    """Call `stop` before a function of a step that tells no progress."""
    module, _, name = function.rpartition(".")
    place = importlib.import_module(module)
    real = getattr(place, name)

    def stopping(*args: Any, **options: Any) -> Any:
        stop()
        return real(*args, **options)

    setattr(place, name, stopping)
    try:
        yield
    finally:
        setattr(place, name, real)


def newest_run(client: MlflowClient) -> Run:
    """Return the newest run that is no child, by the client alone."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(
        experiments, "tags.`moola.step` != ''", order_by=["attributes.start_time DESC"]
    )
    return next(run for run in runs if names.TAG_PARENT not in run.data.tags)


def stated(client: MlflowClient, run: Run) -> dict[str, Any]:
    """Return, by proof, its content where it is logged, else the words of its tag."""
    found: dict[str, Any] = {}
    for proof, path in PROOFS.items():
        words = run.data.tags[names.TAG_PROOF.format(proof=proof)]
        if words == f"logged: {path}":
            local = client.download_artifacts(run.info.run_id, path)
            found[proof] = json.loads(Path(local).read_text())
        else:
            found[proof] = words
    return found


def logged(found: dict[str, Any]) -> set[str]:
    """Return which proofs are there."""
    return {proof for proof, content in found.items() if not isinstance(content, str)}
