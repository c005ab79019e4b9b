"""`moola investigate`: leak checks of a version, and the answers that release a held gate."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config import names
from moola.config.data import PAST_LABELS, RULE_CLASSES, WindowRecipe
from moola.config.evaluation import Thresholds
from moola.config.policy import Policy
from moola.config.promotion import TRUSTED_FOLDER
from moola.data.bars import Bars
from moola.data.features import FEATURE_NAMES, features20
from moola.data.ingest.options import MOST_REPAIRED
from moola.data.labels import label_windows
from moola.data.store.data_store import DataStore, WindowSet
from moola.data.windows import cut_windows
from moola.errors import BadInput, DataError, PromotionRefused
from moola.evaluation.gates import GateReport
from moola.evaluation.gates import leak_checks as checks
from moola.evaluation.gates.leak_checks import CheapLearner, LeakCheck
from moola.evaluation.gates.suspicion import LEAKS, questions, with_answers
from moola.judging.candidate import find_version
from moola.judging.examine import signed_report
from moola.judging.null import bars_until, repaired_share
from moola.judging.progress import Progress, silent
from moola.promotion.evidence.attestation import (
    Evidence,
    evidence_from_report,
    load_evidence,
    sign,
    store_evidence,
    verify,
)
from moola.promotion.evidence.keys import load_trusted_keys
from moola.promotion.production import signing_key
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.tracking.store import connect

_MOST_LAGS = 8
_SEED = 17


@dataclass(frozen=True, kw_only=True)
class Investigation:
    """What the leak checks found, and what is still to be answered.

    `verdict` is gate 1's as it is signed now; `asked` are suspicions and checks without an answer.
    """

    run_id: str
    name: str
    version: str
    verdict: str
    suspicions: Mapping[str, str]
    checks: Mapping[str, LeakCheck]
    asked: tuple[str, ...]


def investigate_version(
    *,
    version: str | None = None,
    name: str = names.REGISTERED_MODEL,
    answers: Mapping[str, str] | None = None,
    data_root: Path | str = "data",
    project: Path = Path(),
    thresholds: Thresholds | None = None,
    progress: Progress = silent,
) -> Investigation:
    """Run the leak checks for an evaluated version; with answers, sign its gates again.

    Parameters
    ----------
    version
        Version of `name`; None takes the newest.
    name
        Registered model.
    answers
        A reason for each suspicion and each check that shows a leak, by name. They become a part of
        gate 1's report, with the user's name and the time, and are signed with it: only who holds
        the gate runner's key can answer. None: only look.
    data_root
        Root of the data store of the evaluation.
    project
        Folder that holds ``.moola``.
    thresholds
        Limits of the gates; None takes those that come with Moola.
    progress
        Told how far it is.

    Returns
    -------
    Investigation
        The checks and what is still to be answered.

    Raises
    ------
    PromotionRefused
        If the version has no evidence of an evaluation that counts.
    BadInput
        If gate 1 is not held, or an answer is missing, unknown or too short.
    """
    client = connect()
    number = find_version(client, name, version)
    trusted = load_trusted_keys(project / TRUSTED_FOLDER)
    evidence = verify(load_evidence(client, name, number), trusted)
    if (evidence.name, evidence.version) != (name, number):
        raise PromotionRefused(
            f"the evidence is about version {evidence.version} of {evidence.name}",
            limit=f"version {number} of {name}",
        )
    document = dict(signed_report(client, evidence))
    gate_1 = _gate_1(document)
    store = DataStore(data_root)
    limits = thresholds or Thresholds.load()
    with tracked_run(
        step="investigate",
        experiment=names.EXPERIMENT_GATES,
        name=f"investigate-{name}-v{number}",
        params={"candidate": f"{name}/{number}"},
    ) as run:
        results = leak_checks(store, evidence, limits=limits, progress=progress)
        asked = questions(gate_1, results) if gate_1.verdict == "held" else ()
        run.log_json("leak_checks.json", {key: check.to_dict() for key, check in results.items()})
        verdict = gate_1.verdict
        if answers:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            report = with_answers(gate_1, answers, checks=results, who=getpass.getuser(), at=now)
            _sign_again(run, document, report, evidence, project)
            verdict, asked = report.verdict, ()
        run.set_tags({names.TAG_CANDIDATE: f"{name}/{number}", names.TAG_VERDICT: verdict})
    return Investigation(
        run_id=run.run_id,
        name=name,
        version=number,
        verdict=verdict,
        suspicions=gate_1.figures.get(LEAKS, {}).get("suspicions", {}),
        checks=results,
        asked=asked,
    )


def leak_checks(
    store: DataStore, evidence: Evidence, *, limits: Thresholds, progress: Progress = silent
) -> dict[str, LeakCheck]:
    """Run every leak check on the windows that an evaluation was made on, by name."""
    labeled = store.load_set(str(evidence.data["labeled"]))
    if labeled.sha256 != evidence.data["labeled_sha256"]:
        raise PromotionRefused(
            f"{labeled.name} below {store.data_root} has SHA-256 {labeled.sha256[:12]}",
            limit=f"{str(evidence.data['labeled_sha256'])[:12]}, on which the gates were judged",
        )
    folds = store.load_folds(str(evidence.data["folds"]))
    rows = np.unique(np.concatenate([r for f in folds.folds for r in (f.train, f.val)]))
    return checks_of(store, labeled, rows, limits=limits, progress=progress)


def checks_of(
    store: DataStore,
    labeled: WindowSet,
    rows: NDArray[np.int64],
    *,
    limits: Thresholds,
    progress: Progress = silent,
) -> dict[str, LeakCheck]:
    """Run every leak check on some windows of a set, by name; ascending `rows`, none locked."""
    assert labeled.y is not None
    assert labeled.X_feats20 is not None
    bound, horizon = limits.max_credible_roc_auc, _horizon(labeled, rows)
    try:
        bars: Bars | None = bars_until(store, labeled, rows)
    except DataError:
        bars = None
    if bars is not None and bars.ohlc.shape[0] <= labeled.times.last[rows].max():
        bars = None
    X = np.asarray(labeled.X_ohlc[rows])
    stored = np.asarray(labeled.X_feats20[rows])
    learner = CheapLearner(
        labeled.y[rows], apart=labeled.times.gap_windows(rows), features=features20
    )
    proba, y = learner.predictions(stored), learner.y[learner.test]
    test = rows[learner.test]
    steps = {
        "lag": lambda: checks.lag_check(
            learner, _lagged(labeled, bars, rows, horizon), horizon_bars=horizon
        ),
        "horizon": lambda: checks.horizon_check(
            y, proba, *_permuted(labeled, bars, test), bound=bound
        ),
        "offset": lambda: checks.offset_check(_agreement(labeled, bars, rows, horizon)),
        "halves": lambda: checks.halves_check(y, proba, bound=bound),
        "age": lambda: checks.age_check(learner, X, horizon_bars=horizon, bound=bound, seed=_SEED),
        "feature": lambda: checks.feature_check(
            learner, stored, features20(X), FEATURE_NAMES, bound=bound
        ),
        "continuity": lambda: checks.continuity_check(X if bars is None else bars.ohlc),
        "repairs": lambda: checks.repairs_check(
            repaired_share(store, labeled.source), MOST_REPAIRED
        ),
    }
    if labeled.recipe.label != "file":
        del steps["offset"]
    checks_by_name = {}
    for name, check in steps.items():
        checks_by_name[name] = check()
        progress("leak checks", len(checks_by_name), len(steps), name)
    return checks_by_name


def _horizon(labeled: WindowSet, rows: NDArray[np.int64]) -> int:
    """Return how many bars after the window labels look at, at least 1."""
    times = labeled.times
    return max(1, int(np.median(times.label_end[rows] - times.last[rows])))


def _lagged(
    labeled: WindowSet, bars: Bars | None, rows: NDArray[np.int64], horizon: int
) -> dict[int, NDArray[np.float32]]:
    """Return the windows cut some bars earlier, by how many; those too early begin at the first."""
    if bars is None:
        return {}
    lags = np.unique([1, *np.linspace(0, 2 * horizon, _MOST_LAGS).round().astype(int).tolist()])
    first, T = labeled.times.first[rows], labeled.recipe.window_bars
    return {int(k): cut_windows(bars, np.maximum(first - k, 0), T) for k in lags}


def _permuted(
    labeled: WindowSet, bars: Bars | None, rows: NDArray[np.int64]
) -> tuple[NDArray[np.intp] | None, str]:
    """Return the labels of windows that got another's horizon, or None and why there are none."""
    recipe = labeled.recipe
    if recipe.label == "file":
        return None, "labels come from a file: no rule makes them again"
    if bars is None:
        return None, "there are no bars"
    before, T, H = recipe.bars_before, recipe.window_bars, recipe.horizon_bars
    first = labeled.times.first[rows]
    span = first[:, None] - before + np.arange(before + T + H)
    logs = np.log(bars.ohlc[span])
    order = np.random.default_rng(_SEED).permutation(len(rows))
    last = logs[:, before + T - 1, 3][:, None, None]
    logs[:, before + T :] = (logs[order, before + T :] - last[order]) + last
    time = np.datetime64("2000-01-01", "us") + np.arange(span.size) * 3_600_000_000
    joined = Bars(name=bars.name, time=time, ohlc=np.exp(logs).reshape(-1, 4), sha256="")
    starts = np.arange(len(rows), dtype=np.int64) * span.shape[1] + before
    return label_windows(joined, starts, recipe).y.astype(np.intp), ""


def _agreement(
    labeled: WindowSet, bars: Bars | None, rows: NDArray[np.int64], horizon: int
) -> dict[tuple[str, int], float]:
    """Return how often labels are those of a rule, by rule and by where it begins to look."""
    if bars is None or labeled.y is None:
        return {}
    recipe, agreement = labeled.recipe, {}
    for label, num_classes in RULE_CLASSES.items():
        if num_classes != labeled.num_classes or label in PAST_LABELS:
            continue
        rule = WindowRecipe(
            source=bars.name, window_bars=recipe.window_bars, label=label,
            horizon_bars=min(horizon, recipe.window_bars),
        )  # fmt: skip
        for offset in range(-2 * horizon, 1):
            starts = labeled.times.first[rows] + offset
            span = rule.window_bars + rule.horizon_bars
            fit = (starts >= 0) & (starts + span <= len(bars))
            if fit.any():
                same = label_windows(bars, starts[fit], rule).y == labeled.y[rows[fit]]
                agreement[label, offset] = float(same.mean())
    return agreement


def _gate_1(document: Mapping[str, Any]) -> GateReport:
    for gate in document["gates"]:
        if gate["gate"] == 1:
            return GateReport.from_dict(gate)
    raise BadInput("the evaluation has no gate 1", limit="an evaluation of every gate")


def _sign_again(
    run: TrackedRun,
    document: dict[str, Any],
    report: GateReport,
    evidence: Evidence,
    project: Path,
) -> None:
    """Sign the gate report with the answers in it; its age stays that of the evaluation."""
    key = signing_key(project)
    if key is None:
        raise PromotionRefused(
            "no key signs here, and an answer counts only if it is signed",
            remedy="Answer where `moola evaluate` signs (see `moola keys`)",
        )
    document["gates"] = [report.to_dict() if g["gate"] == 1 else g for g in document["gates"]]
    run.log_json(names.ARTIFACT_GATE_REPORT, document)
    run.require_store("signing the evidence")
    new_evidence = evidence_from_report(
        document,
        gates_run_id=run.run_id,
        policy=Policy.in_force(project).ohlc,
        key=key,
        now=datetime.fromisoformat(evidence.created_at),
    )
    new_evidence = replace(new_evidence, required_gates=evidence.required_gates)
    store_evidence(run.client, sign(new_evidence, key), new_evidence)
    tag = names.TAG_GATE_OF_VERSION.format(gate=1)
    run.client.set_model_version_tag(new_evidence.name, new_evidence.version, tag, report.verdict)
