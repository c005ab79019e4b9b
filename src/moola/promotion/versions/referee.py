"""The referee: the server scores a version on the locked test windows itself, beside the evidence.

It runs in a process of its own with limits on time and memory, reads weights from safetensors into
a class Moola knows, and never runs code that came with the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moola.config.promotion import PromotionPolicy
from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import Evidence
from moola.promotion.versions.limited import run_limited


def referee(folder: Path, evidence: Evidence, policy: PromotionPolicy) -> Mapping[str, Any]:
    """Score the model in `folder` and compare with the figures the evidence vouches for.

    Parameters
    ----------
    folder
        The version's files, as `moola.promotion.versions.digest.model_files_digest` has read them.
    evidence
        Verified evidence of a promotion.
    policy
        ``referee_data`` names the server's own window sets; the other ``referee_*`` fields are the
        limits.

    Returns
    -------
    What the referee found: digests, number of windows and metrics.

    Raises
    ------
    PromotionRefused
        If it cannot score the version within the limits, has other data, or finds other
        figures.
    """
    scores = _score(folder, evidence, policy)
    reasons = disagreements(scores, evidence, tolerance=policy.referee_tolerance)
    if reasons:
        raise PromotionRefused(
            f"the referee disagrees with the evidence: {'; '.join(reasons)}",
            limit=f"figures within {policy.referee_tolerance:g}",
        )
    return scores


def disagreements(scores: Mapping[str, Any], evidence: Evidence, *, tolerance: float) -> list[str]:
    """Return where the referee's findings differ from signed evidence; empty if nowhere.

    Digests must be equal, every metric of the evidence must be within `tolerance`, and a metric
    that one side lacks counts as a difference.
    """
    reasons = [
        f"{key} is {str(evidence.data.get(key))[:12]}, here {str(scores[key])[:12]}"
        for key in ("labeled_sha256", "split_sha256")
        if evidence.data.get(key) != scores[key]
    ]
    signed = (evidence.promotion_figures or {}).get("metrics")
    if not isinstance(signed, Mapping):
        return [*reasons, "the evidence holds no metrics of the locked test windows"]
    for name in sorted({*signed, *scores["metrics"]}):
        stated, scored = signed.get(name), scores["metrics"].get(name)
        if stated is None and scored is None:
            continue
        numbers = isinstance(stated, int | float) and isinstance(scored, int | float)
        if not numbers or not abs(stated - scored) <= tolerance:
            reasons.append(f"{name} is {_shown(stated)}, scored here {_shown(scored)}")
    return reasons


def _score(folder: Path, evidence: Evidence, policy: PromotionPolicy) -> Mapping[str, Any]:
    asked = {
        "folder": str(folder),
        "data_root": str(Path(str(policy.referee_data)).resolve()),
        "labeled": str(evidence.data.get("labeled", "")),
        "split": str(evidence.data.get("split", "")),
    }
    return run_limited(
        "score",
        asked,
        failed="the referee cannot score the version",
        seconds=policy.referee_seconds,
        memory_mib=policy.referee_memory_mib,
    )


def _shown(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, int | float) else str(value)
