"""Compare kept predictions with the training set of their version, and log a run about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pa_dataset
from numpy.typing import NDArray

from moola.config import names
from moola.data.features import FEATURE_NAMES, features20
from moola.data.store.data_store import DataStore
from moola.data.user_labels import class_numbers
from moola.errors import DataError, one_line
from moola.evaluation.calibration import calibration_bins
from moola.evaluation.drift import DriftReport, drift_report
from moola.evaluation.metrics import compute_metrics
from moola.judging.candidate import find_candidate
from moola.steps.predict import load_scorer
from moola.tracking.lineage import part_input
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.tracking.store import connect

_KEY = ["request_id", "row"]


@dataclass(frozen=True, kw_only=True)
class DriftSummary:
    """What was found about one version, and the run that holds it.

    `labelled` holds metrics of the windows whose labels have arrived, None without labels.
    """

    run_id: str
    name: str
    version: str
    report: DriftReport
    labelled: dict[str, float | None] | None
    num_labelled: int


def drift(
    folder: Path,
    *,
    name: str = names.REGISTERED_MODEL,
    version: str | None = None,
    labels: Path | None = None,
    data_root: Path | str = "data",
    num_permutations: int = 999,
) -> DriftSummary:
    """Compare what a version was asked with what it was trained on.

    Parameters
    ----------
    folder
        What `moola serve --log-predictions` wrote.
    name
        Registered model.
    version
        None takes the version that answered last.
    labels
        CSV or parquet with the columns ``request_id``, ``row`` and ``label``: adds the metrics of
        the windows it names.
    data_root
        Root of the data store.
    num_permutations
        Block permutations behind each p-value.

    Returns
    -------
    DriftSummary
        What has drifted, and the run it was logged in.

    Raises
    ------
    DataError
        If folder or labels cannot be read, a window is labelled twice or has the request id and
        row of another, or fewer than 5 blocks of windows were served.
    """
    client = connect()
    answers = read_kept(folder)
    version = version or str(answers["model_version"].iloc[-1])
    answers = answers[answers["model_version"] == version]
    if answers.empty:
        raise DataError(f"{folder} holds no answer of version {version}")
    candidate = find_candidate(client, name, version)
    scorer = load_scorer(f"models:/{name}/{version}")
    scores = [f"probability_{label}" for label in scorer.class_names]  # others': other versions'
    served = _labelled(answers, labels, scores) if labels else None
    num_labelled = 0 if served is None else len(served[0])
    with tracked_run(
        step="drift",
        experiment=names.EXPERIMENT_MONITORING,
        name=f"drift-{name}-v{version}",
        params={"model": f"{name}/{version}", "windows": len(answers), "labels": num_labelled},
        without=_without(candidate.run_id, labelled=served is not None),
    ) as run:
        data = DataStore(data_root).load_labeled(
            candidate.config.labeled, candidate.config.split, on_proof=run.proofs.log
        )
        run.log_inputs([part_input(data, "train", "train")])
        labelled = None
        if served is not None:
            labelled = dict(compute_metrics(*served))
            run.proofs.log("calibration", calibration_bins(*served).to_dict())
        trained = np.column_stack([features20(data.X_train), scorer.probabilities(data.X_train)])
        report = drift_report(
            trained,
            answers[[*FEATURE_NAMES, *scores]].to_numpy(dtype=np.float64),
            names=(*FEATURE_NAMES, *scores),
            block_length=data.labeled.times.gap_windows(data.split.train),
            num_permutations=num_permutations,
        )
        _log(run, f"{name}/{version}", report, labelled)
    return DriftSummary(
        run_id=run.run_id,
        name=name,
        version=version,
        report=report,
        labelled=labelled,
        num_labelled=num_labelled,
    )


def _without(trained_by: str, *, labelled: bool) -> dict[str, str]:
    """Return which proofs a comparison does not have, and why; `trained_by` is a run."""
    reasons = dict.fromkeys(
        ("load_report", "schedule"),
        f"nothing is trained here; the version was trained by run {trained_by}",
    )
    if not labelled:
        reasons["calibration"] = "served windows have no labels: give them with --labels"
    return reasons


def _log(
    run: TrackedRun,
    candidate: str,
    report: DriftReport,
    labelled: Mapping[str, float | None] | None,
) -> None:
    figures = {f"{kind}_{r.name}": getattr(r, kind) for r in report.rows for kind in ("psi", "ks")}
    run.log_metrics({**figures, "num_drifted": len(report.drifted), **(labelled or {})})
    run.log_json(names.ARTIFACT_DRIFT, {**report.to_dict(), "labelled": labelled})
    verdict = "drift" if report.drifted else "no drift seen"
    run.set_tags({names.TAG_CANDIDATE: candidate, names.TAG_VERDICT: verdict})


def read_kept(folder: Path) -> pd.DataFrame:
    """Return kept predictions in time order."""
    files = sorted(Path(folder).glob("predictions-*.parquet"))
    if not files:
        raise DataError(
            f"{folder} holds no kept predictions",
            remedy=f"Serve with `moola serve --log-predictions {folder}`",
        )
    try:
        table = pa.concat_tables(
            [pa_dataset.dataset(file).to_table() for file in files], promote_options="default"
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder} cannot be read: {one_line(error)}") from None
    return table.to_pandas().sort_values(["time", *_KEY], kind="stable", ignore_index=True)


def _labelled(
    answers: pd.DataFrame, path: Path, scores: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels (n,) and probabilities (n, K) of the served windows that a file labels."""
    labels = _read_labels(path, scores)
    _refuse_twice(labels, f"labels file {path}", remedy="Keep one line of each")
    served = answers[answers.set_index(_KEY).index.isin(labels.set_index(_KEY).index)]
    _refuse_twice(
        served,
        "what was kept",
        remedy="Callers that send x-request-id must send another one with each request",
    )
    joined = served.drop(columns="label").merge(labels, on=_KEY)
    is_class = joined["label"].isin(range(len(scores))).all()
    if joined.empty or not is_class:
        raise DataError(
            f"{path} has {len(labels)} labels, {len(joined)} of windows that were served",
            limit=f"at least one, each from 0 to {len(scores) - 1}",
        )
    y = joined["label"].to_numpy(dtype=np.int64)
    return y, joined[scores].to_numpy(dtype=np.float64)


def _read_labels(path: Path, scores: list[str]) -> pd.DataFrame:
    """Read labels: numbers of classes or their names."""
    names = [score.removeprefix("probability_") for score in scores]
    try:
        if path.suffix == ".parquet":
            labels = pd.read_parquet(path)
        else:
            texts = {"request_id": str, "label": str}
            labels = pd.read_csv(path, dtype=texts, keep_default_na=False)
        column = pa.array(labels["label"], from_pandas=True)
        labels["label"] = class_numbers(column, names, f"labels file {path}")
        return labels[[*_KEY, "label"]].astype({"request_id": str, "row": np.int64})
    except DataError:
        raise
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"labels file {path} cannot be read: {one_line(error)}",
            limit="CSV or parquet: request_id, row, label",
        ) from None


def _refuse_twice(table: pd.DataFrame, what: str, *, remedy: str) -> None:
    """Raise DataError if two lines are about the same window."""
    twice = table[table.duplicated(_KEY)]
    if not twice.empty:
        request_id, row = twice[_KEY].iloc[0]
        raise DataError(
            f"{what} holds row {row} of request {request_id!r} more than once, "
            f"{len(twice)} such lines in all",
            limit="each window once",
            remedy=remedy,
        )
