"""Runs as the store knows them: a list, and what one of them did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.base import check_choice, check_count
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError, TrackingError, one_line
from moola.evaluation.gates import GateReport
from moola.tracking.store import connect

_PAGE_RUNS = 100
_SHOWN_NEAR = 10
_ID_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run read back from the store.

    Attributes
    ----------
    status
        FINISHED, FAILED, KILLED or RUNNING.
    seconds
        From start to end; None while it runs.
    children
        Its child runs, in the order of their start.
    """

    run_id: str
    name: str
    step: str
    status: str
    started_ms: int
    seconds: float | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    artifact_uri: str
    children: tuple[StoredRun, ...] = ()

    def json(self, path: str) -> Any:
        """Read a JSON artifact; None where the run has none of this name."""
        try:
            return json.loads(mlflow.artifacts.load_text(f"{self.artifact_uri}/{path}"))
        except (MlflowException, OSError):
            return None


def list_runs(*, num: int = 20, step: str | None = None) -> list[StoredRun]:
    """Return the newest runs of Moola in any experiment, without child runs; of one step if asked.

    Parameters
    ----------
    num
        How many, at most.
    step
        One of `moola.config.names.STEPS`; None: of any.

    Returns
    -------
    list of StoredRun
        The newest first.

    Raises
    ------
    ConfigError
        If `num` is none that can be asked for, or there is no such step.
    """
    check_count("num", num)
    if step is not None:
        check_choice("step", step, names.STEPS)
    client = connect()
    experiments = all_experiments()
    condition = f"tags.`{names.TAG_STEP}` " + (f"= '{step}'" if step else "!= ''")
    top: list[StoredRun] = []
    token = None
    while len(top) < num:  # the store cannot leave child runs out, and one run may have hundreds
        page = client.search_runs(
            experiments,
            condition,
            max_results=max(_PAGE_RUNS, num),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        top += [_stored(run) for run in page if names.TAG_PARENT not in run.data.tags]
        token = page.token
        if not token:
            break
    return top[:num]


def all_experiments() -> list[str]:
    """Return the ids of the store's experiments: a run may have been joined in any of them."""
    return [e.experiment_id for e in mlflow.search_experiments()]


def read_run(identity: str) -> StoredRun:
    """Return one run by the beginning of its id, by its name, or the newest one (``newest``).

    Parameters
    ----------
    identity
        A run's id or the beginning of it, its name, or ``newest``.

    Returns
    -------
    StoredRun
        The run with its child runs.

    Raises
    ------
    ConfigError
        If no run or more than one answers to it.
    TrackingError
        If the store cannot be read.
    """
    client = connect()
    if identity == "newest":
        newest = list_runs(num=1)
        if not newest:
            raise ConfigError("the store holds no run of Moola", remedy="Run `moola train`")
        identity = newest[0].run_id
    try:
        run = client.get_run(identity)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise TrackingError(f"run {identity} cannot be read: {one_line(error)}") from None
        run = _nearest(client, identity)
    children = client.search_runs(
        [run.info.experiment_id],
        f"tags.`{names.TAG_PARENT}` = '{run.info.run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    return _stored(run, children)


def full_run_id(identity: str) -> str:
    """Return a run's id by the beginning of it; raises ConfigError if none or several have it."""
    if len(identity) == _ID_DIGITS:
        return identity
    return str(_nearest(connect(), identity).info.run_id)


def _nearest(client: MlflowClient, identity: str) -> Run:
    """Return the only run of the store whose id begins so, or that has this name."""
    conditions = []
    if re.fullmatch("[0-9a-f]+", identity):
        conditions.append(f"attributes.run_id LIKE '{identity}%'")
    if "'" not in identity:
        conditions.append(f"attributes.run_name = '{identity}'")
    experiments = all_experiments()
    near = {
        run.info.run_id: run
        for condition in conditions
        for run in client.search_runs(experiments, condition, max_results=_SHOWN_NEAR)
    }
    if len(near) != 1:
        raise ConfigError(
            f"{f'{len(near)} runs answer' if near else 'no run answers'} to {identity!r}",
            limit="a run's id, the unique beginning of one, or its name",
            remedy="See `moola runs`",
        )
    return next(iter(near.values()))


def finetune_view(run: StoredRun) -> Any | None:
    """Return what the status report of a training shows; None where the run did not get so far."""
    manifest = run.json(names.ARTIFACT_MANIFEST)
    if run.step != "finetune" or manifest is None:
        return None
    environment = run.json(names.ARTIFACT_ENVIRONMENT) or {}
    model, _, version = run.tags.get(names.TAG_CANDIDATE, "").partition("/")
    loaded = manifest["pretrained"] if "num_matched" in manifest["pretrained"] else None
    calibrated = manifest["metrics"]["calibrated"]
    return SimpleNamespace(
        run_id=run.run_id,
        run_name=run.name,
        git=(manifest["git_commit"] or "nogit")[:7] + "+" * bool(manifest["git_dirty"]),
        device=environment.get("device"),
        config=FinetuneConfig.from_mapping(manifest["config"]),
        num_parameters=manifest["num_parameters"],
        audit=manifest["data"],
        result=SimpleNamespace(
            load_report=loaded,
            proof=manifest["freeze_proof"],
            history=[None] * manifest["training"]["epochs"],
        ),
        calibration=SimpleNamespace(**manifest["calibration"]),
        metrics=calibrated,
        yardsticks={k: run.metrics[k] for k in names.YARDSTICKS if k in run.metrics},
        registered_as=model or None,
        version=version or None,
        seconds=run.metrics.get("training_seconds", run.seconds or 0.0),
    )


def gate_reports(run: StoredRun) -> Sequence[GateReport]:
    """Return the verdicts that a run's gate report holds; empty where it has none."""
    document = run.json(names.ARTIFACT_GATE_REPORT) or {}
    return [GateReport.from_dict(gate) for gate in document.get("gates", [])]


def _stored(run: Run, children: Sequence[Run] = ()) -> StoredRun:
    info = run.info
    ended = info.end_time
    return StoredRun(
        run_id=str(info.run_id),
        name=str(info.run_name),
        step=run.data.tags.get(names.TAG_STEP, ""),
        status=str(info.status),
        started_ms=int(info.start_time),
        seconds=None if ended is None else (ended - info.start_time) / 1000,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        artifact_uri=str(info.artifact_uri),
        children=tuple(_stored(child) for child in children),
    )
