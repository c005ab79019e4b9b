"""What trainings prove, logged while they run: one training, or the many of a walk-forward run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.tracking.mlflow_run import TrackedRun
from moola.tracking.proofs import Pace
from moola.training.crossval import Training
from moola.training.forensics import WeightEvolution
from moola.training.witness import Witness

FROM_SCRATCH = "no encoder to load: trained from scratch"
NO_GRADIENT = "no model was trained by gradient"


def without_encoder(*configs: FinetuneConfig) -> dict[str, str]:
    """Return why a run of these trainings has no load report; empty where one loads an encoder."""
    if any(config.pretrained_encoder for config in configs):
        return {}
    return {"load_report": FROM_SCRATCH}


class RunWitness(Witness):
    """Logs one training into its run: schedule first, then load report, then epoch by epoch.

    The figures of an epoch are logged at once. Proof and weight evolution are files that grow with
    every epoch, so they are written as often as that takes 2 % of the time, and when training ends.
    """

    def __init__(self, run: TrackedRun):
        self._run = run
        self._pace = Pace()
        self._schedule: Mapping[str, Any] = {}
        self._num_logged = 0

    def schedule(self, schedule: Mapping[str, Any]) -> None:
        """Log the schedule, of which nothing is proven yet."""
        self._schedule = schedule
        self._log_proof({"proven": False, "reasons": ["training has not begun"]})

    def load(self, report: Mapping[str, Any]) -> None:
        """Log the load report."""
        self._run.proofs.log("load_report", report)

    def epochs(
        self,
        history: Sequence[Mapping[str, Any]],
        evolution: WeightEvolution,
        num_epochs: int,
        *,
        last: bool,
    ) -> None:
        """Log the figures of new epochs; proof and weights when it is time, or at the last."""

        def write() -> None:
            proof = evolution.proof()
            so_far = f"training has not ended: {len(history)} of {num_epochs} epochs"
            reasons = evolution.reasons or [so_far]
            self._log_proof({**proof, "proven": False, "reasons": reasons})
            if evolution.rows:
                self._run.log_parquet(names.ARTIFACT_WEIGHT_EVOLUTION, evolution.to_table())

        with self._run.unhurried():
            if new := history[self._num_logged :]:
                self._run.log_history(new)
                self._num_logged = len(history)
            if last:
                write()
            else:
                self._pace.run(write)

    def _log_proof(self, proof: Mapping[str, Any]) -> None:
        self._run.proofs.log("schedule", {"schedule": self._schedule, "proof": proof})


class TrainingsLog:
    """Logs the trainings of a walk-forward run, each as soon as it is done.

    A training gets a file with its rows, load report, schedule and proof; all have a line in one
    table. Load report and schedule of the run are what all of them prove together. Used as a
    context manager: what was not written for lack of time is written at its end.
    """

    def __init__(self, run: TrackedRun):
        self._run = run
        self._pace = Pace()
        self._rows: dict[str, dict[str, Any]] = {}
        self._reports: dict[str, Mapping[str, Any]] = {}
        self._proofs: dict[str, Mapping[str, Any]] = {}
        self._schedules: dict[str, Any] = {}

    def __call__(self, trainee: str, training: Training) -> None:
        """Log one training of a trainee."""
        path = names.ARTIFACT_TRAINING.format(
            trainee=trainee, fold=training.fold.rpartition("/")[2], seed=training.seed
        )
        if path in self._rows:
            return
        self._run.log_json(path, {"trainee": trainee, **training.to_dict()})
        self._rows[path] = {"trainee": trainee, **training.row(), "file": path}
        if training.load_report is not None:
            self._reports[path] = training.load_report
        if training.proof is not None:
            self._proofs[path] = training.proof
            self._schedules[trainee] = training.schedule
        if 1 in (len(self._reports), len(self._proofs)):
            self.write()  # the first is logged at once
        else:
            self._pace.run(self.write)

    def write(self) -> None:
        """Write the table, and what the trainings so far prove together."""
        if not self._rows:
            return
        self._run.log_table(names.ARTIFACT_TRAININGS_TABLE, list(self._rows.values()), listed=False)
        if self._reports:
            loaded = all(report["loaded"] for report in self._reports.values())
            self._run.proofs.log("load_report", {"loaded": loaded, "trainings": self._reports})
        if self._proofs:
            proven = all(proof["proven"] for proof in self._proofs.values())
            document = {
                "schedule": self._schedules,
                "proof": {"proven": proven, "trainings": self._proofs},
            }
            self._run.proofs.log("schedule", document)

    def __enter__(self) -> TrainingsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.write()
        if error is None:
            none = "no training was needed" if not self._rows else FROM_SCRATCH
            self._run.proofs.none("load_report", none)
            unfrozen = none if not self._rows else NO_GRADIENT
            self._run.proofs.none("schedule", unfrozen)
