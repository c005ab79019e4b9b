"""The five proofs of a run: each is logged when it is known, or a tag says why there is none.

The tag ``moola.proof.<proof>`` is there from the first moment, because a process that is killed
writes nothing at its end:

    pending: ...           the run has not come so far
    logged: <artifact>     the artifact is in the run
    none: <reason>         there is none, and never will be

Whoever ends a run, be it the next process after a ``kill -9``, turns ``pending`` into ``none``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from moola.config import names
from moola.errors import BadInput, MoolaError, Refused, one_line
from moola.interrupt import Terminated

PROOFS: Mapping[str, str] = MappingProxyType(
    {
        "audit": names.ARTIFACT_AUDIT,
        "split": names.ARTIFACT_SPLIT,
        "load_report": names.ARTIFACT_LOAD_REPORT,
        "schedule": names.ARTIFACT_FREEZE_SCHEDULE,
        "calibration": names.ARTIFACT_BINS,
    }
)
IN_PARENT = "one for the whole evaluation, search or ablation: see the parent run"
_PENDING = "pending: "
_NOT_SO_FAR = f"{_PENDING}the run has not come so far"


class Proofs:
    """What a run has proven so far; used through `TrackedRun.proofs`.

    Parameters
    ----------
    log_json
        Logs a JSON artifact: path and content.
    set_tags
        Sets tags.
    """

    def __init__(
        self,
        log_json: Callable[[str, Mapping[str, Any]], None],
        set_tags: Callable[[Mapping[str, str]], None],
    ):
        self._log_json, self._set_tags = log_json, set_tags
        self._pending: set[str] = set()
        self._logged: set[str] = set()

    def open(self, without: Mapping[str, str] | None = None) -> None:
        """State all five: those in `without` will not come, for the reason it holds."""
        self._set_tags(self.begin(without or {}))

    def begin(self, without: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of `open`, for a run that is opened with its tags."""
        self._pending = {proof for proof in PROOFS if proof not in without}
        return {
            names.TAG_PROOF.format(proof=proof): (
                f"none: {without[proof]}" if proof in without else _NOT_SO_FAR
            )
            for proof in PROOFS
        }

    def log(self, proof: str, content: Mapping[str, Any]) -> None:
        """Log a proof, or more of one: the newest content is the one that is kept."""
        self._log_json(PROOFS[proof], content)
        if proof not in self._logged:
            self._set_tags({names.TAG_PROOF.format(proof=proof): f"logged: {PROOFS[proof]}"})
        self._logged.add(proof)
        self._pending.discard(proof)

    def none(self, proof: str, reason: str) -> None:
        """State that a run will not have a proof, and why; one that is logged stays."""
        if proof not in self._logged:
            self._set_tags({names.TAG_PROOF.format(proof=proof): f"none: {reason}"})
            self._pending.discard(proof)

    def close(self, error: BaseException | None = None) -> None:
        """Log the proof that an error carries, and give a reason for each that is missing."""
        for proof, content in _carried(error):
            if proof in self._pending:
                self.log(proof, content)
        reason = "the run finished without it" if error is None else _why_not(error)
        for proof in sorted(self._pending):
            self.none(proof, reason)


class Pace:
    """How often something may be done that costs time: at most `share` of all that passes."""

    def __init__(self, share: float = 0.02):
        self.share = share
        self._next = 0.0

    def run(self, action: Callable[[], None]) -> bool:
        """Do it if it is time; return whether it was done."""
        began = time.monotonic()
        if began < self._next:
            return False
        action()
        ended = time.monotonic()
        self._next = ended + (ended - began) / self.share
        return True


def killed_before(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of the proofs that a process that was killed left pending.

    `tags` are those of its run.
    """
    proof_tags = (names.TAG_PROOF.format(proof=proof) for proof in PROOFS)
    pending = [tag for tag in proof_tags if tags.get(tag, "").startswith(_PENDING)]
    return dict.fromkeys(pending, "none: the process was killed before it was known")


def none_of_them(reason: str) -> dict[str, str]:
    """Return the tags of a run that has no proof at all, for one reason."""
    return {names.TAG_PROOF.format(proof=proof): f"none: {reason}" for proof in PROOFS}


def _carried(error: BaseException | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the proofs that an error, or one that it was raised from, is about."""
    proofs = []
    while error is not None:
        if isinstance(error, MoolaError) and error.proof is not None:
            proofs.append(error.proof)
        error = error.__cause__
    return proofs


def _why_not(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | Terminated):
        signal = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else "SIGTERM"
        return f"stopped by {signal} before it was known"
    ended = "refused" if isinstance(error, Refused | BadInput) else "failed"
    return f"{ended} before it was known: {one_line(error)}"
