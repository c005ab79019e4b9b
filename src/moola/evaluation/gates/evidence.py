"""Gates 0 and 3: verdicts from the data audit and from measurements of the encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moola.config.evaluation import Thresholds
from moola.data.audit.trail import AuditTrail
from moola.errors import BadInput
from moola.evaluation.gates.report import GateReport, Verdict, report

_Finding = tuple[Verdict, str]
_WORST_FIRST: tuple[Verdict, ...] = ("failed", "inconclusive", "passed")
_MEASURE = "Run the encoder's evaluation again"
_ERROR_KEYS = ("model", "linear", "last_value", "delta_low", "delta_high")
_PRETEXT_KEYS = ("model", "baseline", "delta_low", "delta_high")
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
    audit: AuditTrail,
    device_asked: str,
    device_used: str,
) -> GateReport:
    """Gate 0: the device is the requested one, and the audit is clean.

    Parameters
    ----------
    audit
        Of the split and every fold.
    device_asked, device_used
        ``auto``, ``cpu`` or ``cuda[:i]``; ``auto`` accepts any.

    Raises
    ------
    BadInput
        If the audit has no check, which would prove nothing.
    """
    if not audit.checks:
        raise BadInput(
            "the audit has 0 checks", limit="at least one", remedy="Run the audit on this split"
        )
    failures = [check for check in audit.checks if not check.passed]
    reasons = [f"the audit's check {check.name} failed: {check.detail}" for check in failures]
    if device_asked != "auto" and not _same_device(device_asked, device_used):
        reasons.append(f"the device asked for was {device_asked}, the run used {device_used}")
    figures = {
        "num_checks": len(audit.checks),
        "num_failed_checks": len(failures),
        "device_asked": device_asked,
        "device_used": device_used,
    }
    if reasons:
        return report(0, "failed", reasons, figures=figures)
    clean = (
        f"the audit is clean ({len(audit.checks)} checks) and the run used {device_used} as asked"
    )
    details = (check.detail for check in audit.checks)
    unproven = dict.fromkeys(d for d in details if d.startswith("not proven"))
    return report(0, "passed", (clean, *unproven), figures=figures)


def gate_3_encoder(
    measurements: Mapping[str, Any], *, thresholds: Thresholds | None = None
) -> GateReport:
    """Gate 3: pretraining learned to reconstruct and to represent, and did not collapse.

    Parameters
    ----------
    measurements
        Of a masked autoencoder ``masked_error``: mean squared error on masked steps of held-out
        windows, as ``{"model", "linear", "last_value", "delta_low", "delta_high"}``, the deltas
        being the paired interval of model less linear interpolation. Of other kinds ``pretext``:
        the error in the ``task`` they were trained on, as ``{"task", "rival", "model", "baseline",
        "delta_low", "delta_high"}``, ``rival`` naming the trivial answer. ``probe_accuracy`` and
        ``probe_accuracy_random``: of a linear probe on this and on a random encoder, with the
        paired interval ``probe_delta_low``, ``probe_delta_high``. ``latent_std_min``,
        ``effective_rank``, ``num_dims``: of the latent vectors.
    thresholds
        Moola's own if None.

    Returns
    -------
    GateReport
        The worst of the findings: ``failed``, ``inconclusive``, ``passed``.

    Raises
    ------
    BadInput
        If a key is missing or not a finite number.
    """
    limits = thresholds or Thresholds.load()
    learned, figures = _pretext(measurements)
    probe = _numbers(measurements, _PROBE_KEYS, "measurements")
    findings = [learned, *_probe(probe, limits), *_latent(probe, limits)]
    findings.sort(key=lambda finding: _WORST_FIRST.index(finding[0]))
    gain = probe["probe_accuracy"] - probe["probe_accuracy_random"]
    figures["delta_probe_accuracy"] = _interval(
        gain, probe["probe_delta_low"], probe["probe_delta_high"]
    )
    figures |= {key: probe[key] for key in _PROBE_KEYS if not key.startswith("probe_delta")}
    used = {
        name: getattr(limits, name)
        for name in ("min_probe_accuracy", "min_latent_std", "min_effective_rank")
    }
    return report(
        3, findings[0][0], [text for _, text in findings], figures=figures, thresholds=used
    )


def _pretext(measurements: Mapping[str, Any]) -> tuple[_Finding, dict[str, Any]]:
    """Return the finding about the task that the encoder was pretrained on, and its figures."""
    if "pretext" not in measurements:
        error = _numbers(measurements.get("masked_error"), _ERROR_KEYS, "masked_error")
        figures = {f"masked_error_{name}": error[name] for name in _ERROR_KEYS[:3]}
        delta = error["model"] - error["linear"]
        interval = _interval(delta, error["delta_low"], error["delta_high"])
        return _masked_verdict(error), {**figures, "delta_masked_error": interval}
    error = _numbers(measurements["pretext"], _PRETEXT_KEYS, "pretext")
    task, rival = (str(measurements["pretext"].get(key)) for key in ("task", "rival"))
    delta = error["model"] - error["baseline"]
    interval = _interval(delta, error["delta_low"], error["delta_high"])
    return _pretext_verdict(error, task, rival), {
        "pretext": task,
        "pretext_model": error["model"],
        "pretext_baseline": error["baseline"],
        "delta_pretext": interval,
    }


def _pretext_verdict(error: Mapping[str, float], task: str, rival: str) -> _Finding:
    figures = f"{error['model']:.4g} against {error['baseline']:.4g}"
    if error["model"] >= error["baseline"]:
        return "failed", f"the {task} is no better than that of {rival} ({figures})"
    if error["delta_high"] < 0:
        return "passed", f"the {task} is lower than that of {rival} ({figures})"
    return "inconclusive", (
        f"the {task} is lower than that of {rival} ({figures}), but the interval of the difference "
        f"reaches {error['delta_high']:.4g}"
    )


def _masked_verdict(error: Mapping[str, float]) -> _Finding:
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


def _probe(probe: Mapping[str, float], limits: Thresholds) -> list[_Finding]:
    accuracy, random = probe["probe_accuracy"], probe["probe_accuracy_random"]
    bar = limits.min_probe_accuracy
    findings: list[_Finding] = []
    if accuracy > bar:
        findings.append(("passed", f"the linear probe reaches {accuracy:.1%}, above {bar:.0%}"))
    else:
        findings.append(("failed", f"the linear probe reaches {accuracy:.1%}, not above {bar:.0%}"))
    against = f"{accuracy:.1%} against {random:.1%} on a random encoder"
    if probe["probe_delta_low"] > 0:
        findings.append(("passed", f"the probe beats the same probe on noise: {against}"))
    elif accuracy <= random:
        findings.append(("failed", f"the probe is no better than on a random encoder: {against}"))
    else:
        findings.append(
            ("inconclusive", f"the probe's gain is not beyond doubt: {against}, interval from "
             f"{probe['probe_delta_low']:+.3f}")
        )  # fmt: skip
    return findings


def _latent(probe: Mapping[str, float], limits: Thresholds) -> list[_Finding]:
    spread, rank = probe["latent_std_min"], probe["effective_rank"]
    needed = min(limits.min_effective_rank, probe["num_dims"])
    findings: list[_Finding] = []
    if spread < limits.min_latent_std:
        findings.append(
            ("failed", f"collapsed: a latent dimension varies by {spread:.2g} only "
             f"(at least {limits.min_latent_std:g})")
        )  # fmt: skip
    if rank < needed:
        findings.append(
            ("failed", f"collapsed: {probe['num_dims']:g} latent dimensions have an effective rank "
             f"of {rank:.2f} (at least {needed:g})")
        )  # fmt: skip
    if not findings:
        findings.append(("passed", f"no collapse: smallest spread {spread:.2g}, rank {rank:.1f}"))
    return findings


def _interval(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


def _numbers(values: Any, keys: tuple[str, ...], name: str) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise BadInput(
            f"{name} is {values!r}", limit=f"a mapping with {', '.join(keys)}", remedy=_MEASURE
        )
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
                remedy=_MEASURE,
            )
        numbers[key] = value
    return numbers


def _same_device(wanted: str, actual: str) -> bool:
    return actual == wanted or actual.split(":", maxsplit=1)[0] == wanted
