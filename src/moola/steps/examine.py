"""The look at the locked test windows: made ready against the signed evidence, then taken."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
from numpy.typing import NDArray

from moola.config.evaluation import Thresholds
from moola.data.registry import DataContainer, DataRegistry
from moola.errors import PromotionRefused
from moola.evaluation.gates import CLASS_PRIOR, gate_promotion, promotion_prerequisites
from moola.promotion.decision import GateDict, Look
from moola.promotion.evidence import Evidence
from moola.steps.calibrate import block_length_of
from moola.training.crossval import class_frequencies

_EVALUATE = "Run `moola evaluate` on this version again"


class Examiner:
    """Makes the look ready that `moola.promotion.promote` asks for.

    Whatever could refuse it is checked first, against the signed evidence, because a look that is
    taken counts.
    """

    def __init__(self, *, data_root: Path | str, limits: Thresholds):
        self.data_root = data_root
        self.limits = limits

    def __call__(self, evidence: Evidence, champion: str | None) -> Look:
        """Check thresholds, gates and data; return the look."""
        verdicts = {int(g): v for g, v in evidence.verdicts.items() if g.isdigit()}
        uses = {"uses_encoder": evidence.uses_encoder, "uses_synthetic": evidence.uses_synthetic}
        if missing := promotion_prerequisites(verdicts, **uses):
            raise PromotionRefused("; ".join(missing), remedy=_EVALUATE)
        _require_thresholds(evidence, self.limits)
        data = evaluated_data(evidence, self.data_root)

        def take(num_looks: int) -> GateDict:
            prior = np.tile(
                class_frequencies(data.y_train, data.labeled.num_classes), (len(data.y_test), 1)
            )
            verdict = gate_promotion(
                data.y_test,
                self._score(evidence.name, evidence.version, data.X_test),
                prior if champion is None else self._score(evidence.name, champion, data.X_test),
                champion_name=CLASS_PRIOR if champion is None else f"version {champion}",
                gate_verdicts=verdicts,
                **uses,
                block_length=block_length_of(data.metadata, len(data.y_test)),
                prior=prior,
                num_looks=num_looks,
                thresholds=self.limits,
            )
            return verdict.to_dict()

        return Look(take=take)

    def _score(self, name: str, version: str, X: NDArray[np.float32]) -> NDArray[np.float64]:
        model = mlflow.pyfunc.load_model(f"models:/{name}/{version}")
        answer = model.predict(X)
        columns = [c for c in answer.columns if c.startswith("probability_")]
        return np.asarray(answer[columns].to_numpy(dtype=np.float64))


def evaluated_data(evidence: Evidence, data_root: Path | str) -> DataContainer:
    """Load the labelled set and split that an evaluation was made on.

    Parameters
    ----------
    evidence
        Verified evidence of the evaluation.
    data_root
        Root of the data registry.

    Returns
    -------
    DataContainer
        The set under the split, audited, test windows included.

    Raises
    ------
    PromotionRefused
        If the set or split of that name has another digest here, or the evidence names none.
    MoolaError
        As `DataRegistry.load_labeled`.
    """
    named = {key: str(evidence.data.get(key) or "") for key in ("labeled", "split")}
    for key, name in named.items():
        if not name:
            raise PromotionRefused(f"the evidence names no {key}", remedy=_EVALUATE)
    data = DataRegistry(data_root).load_labeled(named["labeled"], named["split"])
    for key, found in (("labeled", data.labeled.sha256), ("split", data.split.digest())):
        stated = str(evidence.data.get(f"{key}_sha256"))
        if found != stated:
            raise PromotionRefused(
                f"{named[key]} below {data_root} has SHA-256 {found[:12]}",
                limit=f"{stated[:12]}, on which the gates were judged",
                remedy="Give the --data-root of the evaluation, or evaluate the version again",
            )
    return data


def _require_thresholds(evidence: Evidence, limits: Thresholds) -> None:
    if limits.digest() != evidence.thresholds_sha256:
        raise PromotionRefused(
            f"the promotion gate would judge by thresholds {limits.digest()[:12]}",
            limit=f"{evidence.thresholds_sha256[:12]}, by which the other gates were judged",
            remedy="Give the --thresholds of the evaluation, or evaluate the version again",
        )
