"""Judge a candidate: walk-forward predictions, gates in order, evidence signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moola.config import names
from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.config.gates import GATES
from moola.config.policy import Policy
from moola.config.promotion import PromotionPolicy
from moola.data.store.data_store import DataStore
from moola.errors import (
    ConfigError,
    DataError,
    DeviceError,
    LauncherError,
    MoolaError,
    PromotionRefused,
    Refused,
    TrackingError,
)
from moola.evaluation.gates import GateReport
from moola.evaluation.gates.family import holm_over_candidates
from moola.judging.candidate import (
    Candidate,
    find_candidate,
    find_version,
    model_of,
    newest_of,
    refusals_noted,
    require_answers,
)
from moola.judging.gate_inputs import asked_gates, gates_about, gates_without_subject
from moola.judging.judge import Judge
from moola.judging.log_gates import log_data, log_evaluation
from moola.judging.progress import Progress, silent
from moola.judging.seen import judged_on
from moola.judging.started_from import with_encoder
from moola.models.device import describe_device, resolve_device
from moola.promotion.evidence.attestation import evidence_from_report, sign, store_evidence
from moola.promotion.production import runner_key
from moola.tracking.lineage import git_state, run_name
from moola.tracking.mlflow_run import TrackedRun, tracked_run
from moola.tracking.store import connect
from moola.tracking.training_log import TrainingsLog, without_encoder
from moola.training.crossval import Training
from moola.training.launchers import Launcher, LocalLauncher

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The verdicts of one candidate.

    `metrics` are its own pooled figures, empty where no gate needed its predictions.
    `does_not_apply` says, by gate, what a candidate of another make has and this one has not.
    `not_run` are required gates that were not asked for: where there are any, nothing was signed.
    """

    run_id: str
    candidate: Candidate
    reports: tuple[GateReport, ...]
    metrics: Mapping[str, float | None]
    num_windows: int
    does_not_apply: Mapping[str, str]
    not_run: tuple[int, ...]


def evaluate(
    *,
    version: str | None = None,
    peers: Sequence[str] = (),
    name: str = names.REGISTERED_MODEL,
    folds: str | None = None,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  frozen
    thresholds: Thresholds | None = None,
    device: str = "auto",
    data_root: Path | str = "data",
    cache: Path = Path(names.EVALUATION_FOLDER),
    launcher: Launcher = LocalLauncher(),  # noqa: B008  frozen
    project: Path = Path(),
    progress: Progress = silent,
) -> EvaluationSummary:
    """Run the gates for one version and sign what was found.

    The version's own configuration is trained again on every walk-forward fold with several seeds;
    finished fold x seed results are reused. The locked test part is not looked at. Where a gate
    that promotion requires was not asked for, the verdicts are logged but not signed.

    Parameters
    ----------
    version
        Version of `name`; None takes the newest.
    peers
        Versions that compete with it in this evaluation: what is claimed of one must hold among
        all of them (Holm).
    name
        Registered model.
    folds
        Fold file; None takes the one made for the version's labelled set.
    config
        Seeds, and the gates to run.
    thresholds
        Limits of the gates; None takes those that come with Moola.
    device
        ``auto``, ``cpu`` or ``cuda``.
    data_root
        Root of the data store.
    cache
        Folder of finished fold x seed results.
    launcher
        Where the trainings run; the verdicts do not depend on it.
    project
        Folder whose ``.moola/keys`` hold the gate runner's signing key, made on first use.
    progress
        Told how far it is.

    Returns
    -------
    EvaluationSummary
        The verdicts, and which required gates were not run.
    """
    limits = thresholds or Thresholds.load()
    used = resolve_device(device)
    client = connect()
    store = DataStore(data_root)
    candidate, *others = (
        _judgeable(client, name, asked, store, cache) for asked in (version, *peers)
    )
    policy = Policy.in_force(project).ohlc
    not_run = _required_but_not_run(candidate, config, policy)
    key = runner_key(project)  # what cannot be signed is not trained
    if folds is not None:
        store.load_folds(folds)  # a name that is not there is refused before a run is opened
    title = run_name(
        f"gates-{name}-v{candidate.version}",
        candidate.config.labeled,
        candidate.config.split,
        candidate.config.seed,
        git_state(),
    )
    params = {**config.to_dict(), "candidate": f"{name}/{candidate.version}", "device_used": used}
    opened = tracked_run(
        step="evaluate",
        experiment=names.EXPERIMENT_GATES,
        name=title,
        params=params,
        without=without_encoder(*(c.config for c in (candidate, *others))),
        device=describe_device(used),
    )
    with refusals_noted(name, candidate.version), opened as run, launcher.session():
        judge_of = partial(
            Judge,
            store=store,
            folds=folds,
            limits=limits,
            device_asked=device,
            device=used,
            cache=cache,
            launcher=launcher,
            progress=progress,
        )
        with TrainingsLog(run) as trainings:
            judge = judge_of(candidate=candidate, config=config, on_training=trainings)
            log_data(run, judge)
            if any(GATES[gate].claims for gate in judge.gates):
                judge.tries = judged_on(
                    judge.labeled,
                    judge.folds,
                    [judge.digest_of(one) for one in (candidate, *others)],
                    name=name,
                    data_root=data_root,
                    project=project,
                    key=key,
                )
            rivals = _claims_of(others, judge, partial(_peer, judge_of, trainings))
            reports = holm_over_candidates(_reports(judge), rivals, thresholds=judge.claims)
        document = judge.gate_report(reports)
        metrics = log_evaluation(run, judge, reports, document)
        if not not_run:
            _sign(run, document, key, policy)
    return EvaluationSummary(
        run_id=run.run_id,
        candidate=candidate,
        reports=reports,
        metrics=metrics,
        num_windows=judge.num_windows,
        does_not_apply=gates_without_subject(candidate),
        not_run=not_run,
    )


def _judgeable(
    client: MlflowClient, name: str, version: str | None, store: DataStore, cache: Path
) -> Candidate:
    """Return a version that answers as it must, with its encoder; nothing is believed before."""
    number = find_version(client, name, version)
    with refusals_noted(name, number):
        candidate = find_candidate(client, name, number)
        labeled = store.load_set(candidate.config.labeled)
        split = store.load_split(candidate.config.split)
        require_answers(client, candidate, labeled, split)
        return with_encoder(client, candidate, cache)


def _reports(judge: Judge) -> tuple[GateReport, ...]:
    """Run the gates; what cannot be trained as the version states it is refused."""
    try:
        return judge.reports()
    except (Refused, DataError, DeviceError, LauncherError, TrackingError):
        raise
    except MoolaError as error:
        raise PromotionRefused(
            f"version {judge.candidate.version} cannot be judged: {error.problem}",
            limit=error.limit,
            remedy=error.remedy,
        ) from error


def _claims_of(
    peers: Sequence[Candidate], judge: Judge, judge_of: Callable[..., Judge]
) -> dict[str, tuple[GateReport, ...]]:
    """Judge the peers by those of the candidate's gates that claim superiority."""
    claims = {}
    for peer in peers:
        gates = tuple(g for g in judge.gates if GATES[g].claims and g in gates_about(peer))
        if gates:
            config = replace(judge.config, gates=gates)
            other = judge_of(candidate=peer, config=config)
            other.tries = judge.tries
            claims[peer.version] = _reports(other)
    return claims


def resolve_versions(
    text: str, name: str = names.REGISTERED_MODEL, *, model: str | None = None
) -> tuple[str, ...]:
    """Return the numbers of versions written as ``1,2,newest``, each once.

    Given a `model` such as ``simple_lstm``, ``newest`` is the newest version of that kind, and a
    version of another kind is refused. Raises ConfigError if one is empty or is not there.
    """
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise ConfigError(f"version is {text!r}", limit="versions such as 1,2,3, or newest")
    client = connect()
    numbers = [
        newest_of(client, name, model)
        if w == "newest" and model
        else find_version(client, name, None if w == "newest" else w)
        for w in words
    ]
    for number in dict.fromkeys(numbers):
        if model and (kind := model_of(client, name, number)) != model:
            raise ConfigError(f"version {number} of {name} is a {kind}", limit=model)
    return tuple(dict.fromkeys(numbers))


def _peer(judge_of: Callable[..., Judge], trainings: TrainingsLog, **options: Any) -> Judge:
    """Return the judge of a peer, whose trainings are logged under its version."""
    version = options["candidate"].version

    def log(rival: str, training: Training) -> None:
        trainings(f"{rival}-of-version-{version}", training)

    return judge_of(**options, on_training=log)


def _required_but_not_run(
    candidate: Candidate, config: EvaluateConfig, policy: PromotionPolicy
) -> tuple[int, ...]:
    required = policy.gates_for(
        uses_encoder=candidate.uses_encoder, uses_synthetic=candidate.config.augments
    )
    asked = asked_gates(candidate, config.gates)
    return tuple(gate for gate in required if gate not in asked)


def _sign(
    run: TrackedRun, document: Mapping[str, Any], key: Ed25519PrivateKey, policy: PromotionPolicy
) -> None:
    """Sign the gate report and pin it to the version."""
    run.require_store("signing the evidence")
    evidence = evidence_from_report(
        document,
        gates_run_id=run.run_id,
        policy=policy,
        key=key,
        now=datetime.now(UTC),
    )
    store_evidence(run.client, sign(evidence, key), evidence)
    for gate in document["gates"]:
        tag = names.TAG_GATE_OF_VERSION.format(gate=gate["gate"])
        run.client.set_model_version_tag(evidence.name, evidence.version, tag, gate["verdict"])
