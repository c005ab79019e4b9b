"""Addresses of the pages in MLflow's web page where gates are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

import mlflow
from mlflow.entities import Run

from moola.config import names
from moola.errors import ConfigError
from moola.steps.runs import all_experiments
from moola.tracking.store import connect

_LOCAL_PAGE = "http://127.0.0.1:5000"
_MODE = "workflowType=machine_learning"


def gate_pages(*, num_evaluations: int = 2) -> list[tuple[str, str]]:
    """Return titles and addresses for the newest evaluations, whatever experiment they are in.

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
    runs = client.search_runs(
        all_experiments(),
        f"tags.`{names.TAG_STEP}` = 'evaluate' and attributes.status = 'FINISHED'",
        max_results=num_evaluations,
    )
    if not runs:
        raise ConfigError("no finished evaluation in the store", remedy="Run `moola evaluate`")
    uri = mlflow.get_tracking_uri()
    page = uri if uri.startswith("http") else _LOCAL_PAGE
    newest = f"/experiments/{runs[0].info.experiment_id}/runs?{_MODE}"
    pages = [
        ("charts and reliability", f"{newest}&compareRunsMode=CHART"),
        ("verdict table", f"{newest}&compareRunsMode=ARTIFACT"),
        ("newest evaluations", _compare(runs)),
    ]
    for run in runs:
        children = client.search_runs(
            [run.info.experiment_id], f"tags.`{names.TAG_PARENT}` = '{run.info.run_id}'"
        )
        ordered = sorted(children, key=lambda r: r.data.tags.get(names.TAG_GATE, ""))
        title = f"gates of {run.data.tags.get(names.TAG_CANDIDATE, run.info.run_name)}"
        pages.append((title, _compare(ordered)))
    return [(title, f"{page}/#{path}") for title, path in pages]


def _compare(runs: Sequence[Run]) -> str:
    experiments = sorted({r.info.experiment_id for r in runs})
    ids, experiments_asked = (
        quote(json.dumps(v)) for v in ([r.info.run_id for r in runs], experiments)
    )
    return f"/compare-runs?runs={ids}&experiments={experiments_asked}&{_MODE}"
