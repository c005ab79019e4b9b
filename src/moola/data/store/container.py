"""What a run gets to train on: the parts of a set, and the proof of where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.data.audit.synthetic import synthetic_checks
from moola.data.audit.trail import AuditTrail
from moola.data.splits import Split
from moola.data.store.sets import WindowSet
from moola.data.synthetic import SyntheticSet


@dataclass(frozen=True, kw_only=True)
class DataContainer:
    """The parts of one labelled set under one split, with the proof of where they come from.

    `synthetic_train` is True, shape (n_train,), for every row of train that is synthetic; they
    come after the real ones.
    """

    labeled: WindowSet
    split: Split
    X_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    X_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    X_test: NDArray[np.float32] = field(repr=False)
    y_test: NDArray[np.int64] = field(repr=False)
    metadata: Mapping[str, Any]
    audit_trail: Mapping[str, Any]
    synthetic_train: NDArray[np.bool_] | None = None


def with_synthetic(
    audit: AuditTrail, synthetic: SyntheticSet, labeled: WindowSet, split: Split
) -> AuditTrail:
    """Return the audit of a split with the checks and facts of what is appended to its train."""
    checks, report = synthetic_checks(synthetic, labeled, split)
    facts = {
        **audit.facts,
        "synthetic_applied": synthetic.name,
        "synthetic_sha256": synthetic.sha256,
        "synthetic_ratio": len(synthetic) / (len(synthetic) + len(split.train)),
        "n_synthetic_train": len(synthetic),
        "synthetic_quality": report.to_dict() if report else None,
    }
    return replace(audit, checks=(*audit.checks, *checks), facts=facts)
