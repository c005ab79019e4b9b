"""Addresses of the pages in MLflow's web page where gates are compared."""

from __future__ import annotations

import json
from urllib.parse import quote

import mlflow

from moola.config import names
from moola.errors import ConfigError
from moola.tracking.store import connect

_LOCAL_PAGE = "http://127.0.0.1:5000"
_MODE = "workflowType=machine_learning"


def gate_pages(*, num_evaluations: int = 2) -> list[tuple[str, str]]:
    """Return titles and addresses for the newest evaluations.

    A parent's chart view shows its pooled figures and reliability diagrams beside the others';
    the compare view puts the gates of one evaluation side by side.

    Parameters
    ----------
    num_evaluations
        How many evaluations get an address of their own, the newest.

    Returns
    -------
    list of (str, str)
        Title and address.

    Raises
    ------
    ConfigError
        If nothing has been evaluated yet.
    """
    client = connect()
    experiment = client.get_experiment_by_name(names.EXPERIMENT_GATES)
    runs = [] if experiment is None else client.search_runs(
        [experiment.experiment_id],
        f"tags.`{names.TAG_STEP}` = 'evaluate' and attributes.status = 'FINISHED'",
        max_results=num_evaluations,
    )  # fmt: skip
    if experiment is None or not runs:
        raise ConfigError("no finished evaluation in the store", remedy="Run `moola evaluate`")
    uri = mlflow.get_tracking_uri()
    page = uri if uri.startswith("http") else _LOCAL_PAGE
    identity = experiment.experiment_id
    pages = [
        ("charts and reliability", f"/experiments/{identity}/runs?{_MODE}&compareRunsMode=CHART"),
        ("verdict table", f"/experiments/{identity}/runs?{_MODE}&compareRunsMode=ARTIFACT"),
        ("newest evaluations", _compare([r.info.run_id for r in runs], identity)),
    ]
    for run in runs:
        children = client.search_runs(
            [identity], f"tags.`{names.TAG_PARENT}` = '{run.info.run_id}'"
        )
        ordered = sorted(children, key=lambda r: r.data.tags.get(names.TAG_GATE, ""))
        title = f"gates of {run.data.tags.get(names.TAG_CANDIDATE, run.info.run_name)}"
        pages.append((title, _compare([r.info.run_id for r in ordered], identity)))
    return [(title, f"{page}/#{path}") for title, path in pages]


def _compare(run_ids: list[str], experiment_id: str) -> str:
    runs, experiments = (quote(json.dumps(v)) for v in (run_ids, [experiment_id]))
    return f"/compare-runs?runs={runs}&experiments={experiments}&{_MODE}"
