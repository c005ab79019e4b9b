"""Gates 0 and 3: verdicts from evidence that other parts of Moola gathered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.gates.report import GateReport, report

_ERROR_KEYS = ("model", "linear", "last_value", "delta_low", "delta_high")
_PROBE_KEYS = (
    "probe_accuracy",
    "probe_accuracy_random",
    "probe_delta_low",
    "probe_delta_high",
    "latent_std_min",
    "effective_rank",
    "num_dims",
)


def gate_0_data(
    *,
    audit: Mapping[str, Any],
    device_asked: str,
    device_used: str,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 0: the device is the one asked for, and the audit is clean.

    Parameters
    ----------
    audit
        ``{"passed": bool, "checks": [{"name", "passed", "detail"}, ...]}``.
    device_asked, device_used
        ``auto``, ``cpu`` or ``cuda[:i]``; ``auto`` is satisfied by any.
    thresholds
        Taken for the sake of one signature; this gate has none.

    Returns
    -------
    GateReport
        ``passed`` or ``failed``.

    Raises
    ------
    BadInput
        If the audit lacks ``passed`` or ``checks``, or holds no check: an audit that looked at
        nothing proves nothing.
    """
    del thresholds
    if not isinstance(audit.get("passed"), bool) or not audit.get("checks"):
        raise BadInput(
            "the audit lacks 'passed' or 'checks'",
            limit="the audit trail of moola.data.audit.checks, with at least one check",
            remedy="Run the audit on this split",
        )
    checks = list(audit["checks"])
    bad = [check for check in checks if check.get("passed") is not True]
    reasons = [f"the audit's check {check['name']} failed: {check['detail']}" for check in bad]
    if not audit["passed"] and not bad:
        reasons.append("the audit failed without naming a check")
    if device_asked != "auto" and not _same_device(device_asked, device_used):
        reasons.append(f"the device asked for was {device_asked}, the run used {device_used}")
    figures = {
        "num_checks": len(checks),
        "num_failed_checks": len(bad),
        "device_asked": device_asked,
        "device_used": device_used,
    }
    if reasons:
        return report(0, "failed", reasons, figures=figures)
    clean = f"the audit is clean ({len(checks)} checks) and the run used {device_used} as asked"
    details = (str(check.get("detail", "")) for check in checks)
    unproven = dict.fromkeys(d for d in details if d.startswith("not proven"))
    return report(0, "passed", (clean, *unproven), figures=figures)


def gate_3_encoder(
    evidence: Mapping[str, Any], *, thresholds: Thresholds | None = None
) -> GateReport:
    """Gate 3: pretraining learned to reconstruct and to represent, and did not collapse.

    Parameters
    ----------
    evidence
        ``masked_error``: mean squared error on masked steps of held-out windows, as ``{"model",
        "linear", "last_value", "delta_low", "delta_high"}``, the deltas being the paired interval
        of model less linear interpolation; ``{"not_applicable": reason}`` for a model without a
        decoder, which cannot pass. ``probe_accuracy`` and ``probe_accuracy_random``: of a
        linear probe on this and on a random encoder, with the paired interval
        ``probe_delta_low``, ``probe_delta_high``. ``latent_std_min``, ``effective_rank``,
        ``num_dims``: of the latent vectors.
    thresholds
        Moola's own where None.

    Returns
    -------
    GateReport
        ``failed`` if one finding is, else ``inconclusive`` if one is, else ``passed``.

    Raises
    ------
    BadInput
        If a key is missing or not a finite number.
    """
    limits = thresholds or Thresholds.load()
    masked, figures = _masked(evidence.get("masked_error"))
    probe = _numbers(evidence, _PROBE_KEYS, "evidence")
    findings = [masked, *_probe(probe, limits), *_latent(probe, limits)]
    failed = [text for verdict, text in findings if verdict == "failed"]
    open_ = [text for verdict, text in findings if verdict == "inconclusive"]
    passed = [text for verdict, text in findings if verdict == "passed"]
    verdict = "failed" if failed else "inconclusive" if open_ else "passed"
    gain = probe["probe_accuracy"] - probe["probe_accuracy_random"]
    figures["delta_probe_accuracy"] = _interval(
        gain, probe["probe_delta_low"], probe["probe_delta_high"]
    )
    figures |= {key: probe[key] for key in _PROBE_KEYS if not key.startswith("probe_delta")}
    used = {
        name: getattr(limits, name)
        for name in ("min_probe_accuracy", "min_latent_std", "min_effective_rank")
    }
    return report(3, verdict, failed + open_ + passed, figures=figures, thresholds=used)


def _masked(given: Any) -> tuple[tuple[str, str], dict[str, Any]]:
    """Return the finding about the masked error, and its figures."""
    reason = given.get("not_applicable") if isinstance(given, Mapping) else None
    if reason is not None:
        text = f"masked reconstruction is not applicable, as {reason}: this gate cannot pass"
        return ("inconclusive", text), {"masked_error": f"not applicable: {reason}"}
    error = _numbers(given, _ERROR_KEYS, "masked_error")
    delta = error["model"] - error["linear"]
    figures: dict[str, Any] = {f"masked_error_{name}": error[name] for name in _ERROR_KEYS[:3]}
    figures["delta_masked_error"] = _interval(delta, error["delta_low"], error["delta_high"])
    return _masked_verdict(error), figures


def _masked_verdict(error: Mapping[str, float]) -> tuple[str, str]:
    figures = f"{error['model']:.4g} against {error['linear']:.4g}"
    if error["model"] >= error["last_value"]:
        return "failed", (
            f"masked reconstruction ({error['model']:.4g}) is no better than repeating "
            f"the last value ({error['last_value']:.4g})"
        )
    if error["model"] >= error["linear"]:
        return "failed", f"masked reconstruction does not beat linear interpolation ({figures})"
    if error["delta_high"] < 0:
        return "passed", f"masked reconstruction beats linear interpolation ({figures})"
    return "inconclusive", (
        f"masked reconstruction is ahead of linear interpolation ({figures}), but the interval of "
        f"the difference reaches {error['delta_high']:.4g}"
    )


def _probe(probe: Mapping[str, float], limits: Thresholds) -> list[tuple[str, str]]:
    accuracy, random = probe["probe_accuracy"], probe["probe_accuracy_random"]
    bar = limits.min_probe_accuracy
    found = []
    if accuracy > bar:
        found.append(("passed", f"the linear probe reaches {accuracy:.1%}, above {bar:.0%}"))
    else:
        found.append(("failed", f"the linear probe reaches {accuracy:.1%}, not above {bar:.0%}"))
    against = f"{accuracy:.1%} against {random:.1%} on a random encoder"
    if probe["probe_delta_low"] > 0:
        found.append(("passed", f"the probe beats the same probe on noise: {against}"))
    elif accuracy <= random:
        found.append(("failed", f"the probe is no better than on a random encoder: {against}"))
    else:
        found.append(
            ("inconclusive", f"the probe's gain is not beyond doubt: {against}, interval from "
             f"{probe['probe_delta_low']:+.3f}")
        )  # fmt: skip
    return found


def _latent(probe: Mapping[str, float], limits: Thresholds) -> list[tuple[str, str]]:
    spread, rank = probe["latent_std_min"], probe["effective_rank"]
    needed = min(limits.min_effective_rank, probe["num_dims"])
    found = []
    if spread < limits.min_latent_std:
        found.append(
            ("failed", f"collapsed: a latent dimension varies by {spread:.2g} only "
             f"(at least {limits.min_latent_std:g})")
        )  # fmt: skip
    if rank < needed:
        found.append(
            ("failed", f"collapsed: {probe['num_dims']:g} latent dimensions have an effective rank "
             f"of {rank:.2f} (at least {needed:g})")
        )  # fmt: skip
    if not found:
        found.append(("passed", f"no collapse: smallest spread {spread:.2g}, rank {rank:.1f}"))
    return found


def _interval(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


def _numbers(values: Any, keys: tuple[str, ...], name: str) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise BadInput(f"{name} is {values!r}", limit=f"a mapping with {', '.join(keys)}")
    numbers = {}
    for key in keys:
        value = values.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise BadInput(
                f"{key} in {name} is {value!r}",
                limit="a finite number",
                remedy="Run the encoder's evaluation again",
            )
        numbers[key] = value
    return numbers


def _same_device(asked: str, used: str) -> bool:
    return used == asked or used.split(":", maxsplit=1)[0] == asked
