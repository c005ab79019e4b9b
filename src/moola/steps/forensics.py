"""Compare any two checkpoints or runs: their weights and, where both left them, their answers."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from moola.config import names
from moola.errors import CheckpointNotFound, one_line
from moola.models.weights.checkpoint import Checkpoint, read_checkpoint
from moola.promotion.versions.fetched import fetched_from
from moola.promotion.versions.inspection import inspect
from moola.serving.pyfunc import checkpoint_of
from moola.steps.runs import full_run_id
from moola.tracking.store import connect
from moola.training.compare_checkpoints import CheckpointComparison, compare_checkpoints

_RUN_ID = re.compile(r"[0-9a-f]{1,32}")
_SAME = 1e-6
_Answers = Mapping[tuple[str, int], NDArray[np.float64]]  # by digest of the set and row in it


@dataclass(frozen=True, kw_only=True)
class AnswerComparison:
    """Predictions of two runs on the windows both answered."""

    num_windows: int
    identical: bool
    same_labels: bool
    largest_difference: float


@dataclass(frozen=True, kw_only=True)
class ForensicsSummary:
    """What two checkpoints, or runs, have in common."""

    comparison: CheckpointComparison
    answers: AnswerComparison | None

    def findings(self) -> list[str]:
        """Return what it means, in words."""
        lines = self.comparison.findings()
        if self.answers is None:
            return lines
        windows = f"the {self.answers.num_windows} common validation windows"
        if self.answers.identical:
            return [f"red flag: identical predictions on {windows}: no effect", *lines]
        if self.answers.same_labels:
            return [f"red flag: the same label on each of {windows}", *lines]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        answers = self.answers.__dict__ if self.answers else None
        return {**self.comparison.to_dict(), "answers": answers, "findings": self.findings()}


def forensics(first: str, second: str) -> ForensicsSummary:
    """Compare two of: a checkpoint's path, a run's id, a model URI (``models:/name/1``).

    The answers of two runs are compared where both were judged on the same labelled set.

    Parameters
    ----------
    first
        A checkpoint's path, a run's id or the beginning of it, or ``models:/<name>/<version>``.
    second
        The later one, of the same kinds.

    Returns
    -------
    ForensicsSummary
        What is equal, what moved and, for two training runs, how their answers differ.

    Raises
    ------
    CheckpointNotFound
        If one of them is none of these, or a run that left no checkpoint.
    CheckpointError
        If a checkpoint cannot be read.
    PromotionRefused
        If a model is not exactly Moola's packaging.
    """
    with tempfile.TemporaryDirectory(prefix="moola-forensics-") as folder:
        a, answers_a = _find(first, Path(folder) / "a")
        b, answers_b = _find(second, Path(folder) / "b")
        comparison = compare_checkpoints(a, b, names=(_short(first), _short(second)))
        answers = None
        if answers_a is not None and answers_b is not None:
            answers = compare_answers(answers_a, answers_b)
    return ForensicsSummary(comparison=comparison, answers=answers)


def compare_answers(a: _Answers, b: _Answers) -> AnswerComparison | None:
    """Compare probabilities, shape (K,) each, by window: a set's digest and a row in it.

    None without a common window.
    """
    common = sorted(set(a) & set(b))
    if not common or len(a[common[0]]) != len(b[common[0]]):
        return None
    first, second = np.stack([a[w] for w in common]), np.stack([b[w] for w in common])
    difference = float(np.abs(first - second).max())
    return AnswerComparison(
        num_windows=len(common),
        identical=difference <= _SAME,
        same_labels=bool((first.argmax(axis=1) == second.argmax(axis=1)).all()),
        largest_difference=difference,
    )


def _find(text: str, folder: Path) -> tuple[Checkpoint, _Answers | None]:
    identity = text.removeprefix("runs:/")
    is_run = identity != text or (_RUN_ID.fullmatch(text) and not Path(text).exists())
    if not is_run and not text.startswith("models:/"):
        return read_checkpoint(Path(text)), None
    connect()
    try:
        if is_run:
            return _of_run(full_run_id(identity), folder)
        return _of_model(text), None
    except MlflowException as error:
        raise CheckpointNotFound(
            f"{text} cannot be read: {one_line(error)}",
            limit="a checkpoint's path, a run's id, or models:/<name>/<version>",
        ) from None


def _of_run(run_id: str, folder: Path) -> tuple[Checkpoint, _Answers | None]:
    """Read a training run's model, or a pretraining run's encoder."""
    client = MlflowClient()
    run = client.get_run(run_id)
    models = [m.model_id for m in (run.outputs.model_outputs if run.outputs else [])]
    if models:
        answers = _answers(client, run_id, folder)
        return _of_model(f"models:/{models[-1]}"), answers
    if not client.list_artifacts(run_id, "encoder"):
        raise CheckpointNotFound(
            f"run {run_id} left neither a model nor an encoder",
            limit="a run of `moola train` or `moola pretrain-bilstm`",
        )
    return read_checkpoint(Path(_download(folder, run_id=run_id, path="encoder"))), None


def _of_model(uri: str) -> Checkpoint:
    with fetched_from(uri, uri) as local:
        inspect(local)
        return read_checkpoint(checkpoint_of(local))


def _answers(client: MlflowClient, run_id: str, folder: Path) -> _Answers | None:
    path = names.ARTIFACT_PREDICTIONS.format(part="val")
    if not any(f.path == path for f in client.list_artifacts(run_id, str(Path(path).parent))):
        return None
    table = pq.read_table(_download(folder, run_id=run_id, path=path)).to_pandas()
    columns = [c for c in table.columns if c.startswith("probability_")]
    matrix = table[columns].to_numpy(dtype=np.float64)
    manifest = json.loads(
        Path(_download(folder, run_id=run_id, path=names.ARTIFACT_MANIFEST)).read_text()
    )
    digest = str(manifest["data"]["labeled_sha256"])
    windows = table["window"].astype(int).tolist()
    return {(digest, window): row for window, row in zip(windows, matrix, strict=True)}


def _download(folder: Path, *, run_id: str, path: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=str(folder))
    )


def _short(text: str) -> str:
    return text[:8] if _RUN_ID.fullmatch(text) else text
