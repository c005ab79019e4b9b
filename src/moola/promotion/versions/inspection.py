"""A version looked at before anything believes it, in a process of its own with limits.

Its packaging, whether it loads, and its answers.
What it finds is plain data, checked again here. Only then may this process read the files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moola.config.training import FinetuneConfig
from moola.errors import PromotionRefused
from moola.promotion.versions.digest import model_files_digest
from moola.promotion.versions.limited import SECONDS, run_limited

if TYPE_CHECKING:
    from moola.promotion.versions.packaging import Packaging

_AGAIN = "Train it again with `moola train`"
_TRIAL_WINDOWS = 16
_LEAST_WINDOWS_A_SECOND = 100  # large sets take their time; a version is given no more than that
_PASSED: dict[str, Inspection] = {}  # by digest, so that a command looks at a version once
_THRESHOLD_TOLERANCE = 0.02  # a GPU's arithmetic moves a probability by less


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A version that is Moola's own packaging, loads, and answers.

    Attributes
    ----------
    sha256
        `moola.promotion.versions.digest.model_files_digest` of its files.
    config
        How it was trained, as it states; a pretrained encoder is named, not located.
    class_names, window_bars
        What it answers, and the bars of a window.
    encoder_sha256
        Digest of the encoder it started from; None from scratch.
    conformal
        ``threshold``, ``level`` and ``num_windows``, as it states.
    """

    sha256: str
    config: FinetuneConfig
    class_names: tuple[str, ...]
    window_bars: int
    encoder_sha256: str | None
    conformal: Mapping[str, float]


def inspect(
    folder: Path,
    *,
    windows: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    calibrated_on_them: bool = True,
) -> Inspection:
    """Look at a version in a process of its own; nothing of it is read here before that.

    Parameters
    ----------
    folder
        A private copy of its files.
    windows
        Validation windows in price units, shape (n, T, 4), and their classes, shape (n,); None: it
        answers random windows.
    calibrated_on_them
        Whether these are the validation windows of its own training, so that its conformal
        threshold can be derived again.

    Returns
    -------
    Inspection
        What it states.

    Raises
    ------
    PromotionRefused
        If it is not Moola's packaging, does not load, does not answer every window with finite
        probabilities, or states another conformal threshold than the validation windows give.
    """
    sha256 = model_files_digest(folder)
    if windows is None and sha256 in _PASSED:
        return _PASSED[sha256]
    with tempfile.TemporaryDirectory(prefix="moola-windows-") as temporary:
        asked = {"folder": str(Path(folder).resolve()), "windows": None}
        if windows is not None:
            asked["windows"] = str(Path(temporary) / "windows.npz")
            np.savez(str(asked["windows"]), X=windows[0], y=windows[1])
        num = 0 if windows is None else len(windows[1])
        seconds = SECONDS + num // _LEAST_WINDOWS_A_SECOND
        failed = "the version cannot be used"
        answer = run_limited("inspect", asked, failed=failed, seconds=seconds)
    inspection = Inspection(
        sha256=sha256,
        config=FinetuneConfig.from_mapping(answer["config"]),
        class_names=tuple(answer["class_names"]),
        window_bars=int(answer["window_bars"]),
        encoder_sha256=answer["encoder_sha256"],
        conformal=answer["conformal"],
    )
    if windows is not None and calibrated_on_them:
        _require_conformal(inspection.conformal, answer["threshold"], len(windows[1]))
    _PASSED[sha256] = inspection
    return inspection


def _require_conformal(stated: Mapping[str, float], threshold: float, num_windows: int) -> None:
    """Refuse a threshold that the validation windows do not give: its sets would cover less."""
    apart = abs(stated["threshold"] - threshold)
    if stated["num_windows"] != num_windows or not apart <= _THRESHOLD_TOLERANCE:
        raise PromotionRefused(
            f"the version states a conformal threshold of {stated['threshold']:.4g} from "
            f"{stated['num_windows']:g} windows",
            limit=f"{threshold:.4g} from {num_windows}, as its validation windows give",
            remedy=_AGAIN,
        )


def inspect_here(folder: str, windows: str | None) -> dict[str, Any]:
    """Check packaging, load the weights and answer windows; for a process with limits.

    Parameters
    ----------
    folder
        The version's files.
    windows
        An npz file of windows ``X`` and classes ``y``; None: random ones.

    Returns
    -------
    dict
        What the version states and, of windows with classes, the conformal threshold they give.

    Raises
    ------
    PromotionRefused, CheckpointError
        If it cannot be loaded as Moola's, or its answers cannot be used.
    """
    from moola.evaluation.conformal import conformal_threshold
    from moola.promotion.versions.packaging import check_packaging

    packaging = check_packaging(Path(folder))
    stored = packaging.stored
    facts = {
        "config": stored.config.to_dict(),
        "class_names": list(stored.class_names),
        "window_bars": stored.window_bars,
        "encoder_sha256": stored.encoder_sha256,
        "conformal": dict(stored.conformal),
    }
    if windows is None:
        answers(packaging, _random_windows(stored.window_bars))
        return facts
    with np.load(windows, allow_pickle=False) as arrays:
        X, y = arrays["X"], arrays["y"]
    facts["threshold"] = conformal_threshold(y, answers(packaging, X)).threshold
    return facts


def answers(packaging: Packaging, X_NTC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return calibrated probabilities of windows in price units, shape (n, K), all usable.

    Raises PromotionRefused if a row is not finite, or is no distribution.
    """
    from moola.evaluation.temperature import apply_temperature

    stored = packaging.stored
    model = type(stored.estimator()).load(packaging.checkpoint, device="cpu")
    raw = model.predict_proba(X_NTC)
    require_distribution(raw, (len(X_NTC), len(stored.class_names)))
    proba = apply_temperature(raw, stored.temperature)
    require_distribution(proba, raw.shape)
    return proba


def require_distribution(proba: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    """Refuse answers that are not one distribution over the classes a window, shape (n, K)."""
    usable = proba.shape == shape and bool(np.isfinite(proba).all())
    if not usable or proba.min() < 0 or np.abs(proba.sum(axis=1) - 1).max() > 1e-6:
        raise PromotionRefused(
            f"the version's answers to {shape[0]} windows are not probabilities",
            limit=f"{shape[1]} finite numbers a window that add up to 1",
            remedy=_AGAIN,
        )


def _random_windows(window_bars: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(17)
    steps = rng.normal(0, 0.01, (_TRIAL_WINDOWS, window_bars))
    close = 100 * np.exp(steps.cumsum(axis=1).clip(-3, 3))
    edge = close * (1 + np.abs(rng.normal(0, 0.001, close.shape)))
    return np.stack([close, edge, close * close / edge, close], axis=2).astype(np.float32)
