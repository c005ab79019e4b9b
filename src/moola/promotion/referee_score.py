"""The referee's own process: limits first, then weights and windows, one line of JSON at the end.

``python -m moola.promotion.referee_score '{"folder": ..., "data_root": ..., ...}'``
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

_LARGEST_FILE_BYTES = 1 << 20


def main(argument: str) -> int:
    """Score and print; what goes wrong is one line on standard error and code 1."""
    asked = json.loads(argument)
    _limit(memory_mib=asked["memory_mib"], seconds=asked["seconds"])
    try:
        found = score(
            Path(asked["folder"]),
            data_root=Path(asked["data_root"]),
            labeled=asked["labeled"],
            split=asked["split"],
        )
    except Exception as error:  # the parent shows the line to whoever asked
        text = " ".join(str(error).split()) or "no reason given"
        sys.stderr.write(f"\n{type(error).__name__}: {text}\n")
        return 1
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def score(folder: Path, *, data_root: Path, labeled: str, split: str) -> dict[str, Any]:
    """Return digests of set and split and the metrics of a model folder on the test windows.

    Parameters
    ----------
    folder
        A registered version's files, with one Moola checkpoint in them.
    data_root
        The data registry to score on.
    labeled
        Name of the labelled set in it.
    split
        Name of the split in it.

    Returns
    -------
    dict
        Digests, number of windows and metrics, JSON-ready.

    Raises
    ------
    MoolaError
        If the folder holds no checkpoint of a class Moola knows, or set or split cannot be read.
    """
    from moola.data.registry import DataRegistry
    from moola.evaluation.metrics import compute_metrics
    from moola.evaluation.temperature import apply_temperature
    from moola.models import get_model
    from moola.models.checkpoint import read_config

    checkpoint = find_checkpoint(folder)
    config = read_config(checkpoint)
    estimator = type(get_model(config["model"], **config["params"]))
    model = estimator.load(checkpoint, device="cpu")
    registry = DataRegistry(data_root)
    windows, parts = registry.load_set(labeled), registry.load_split(split)
    assert windows.y is not None
    proba = apply_temperature(
        model.predict_proba(windows.X_ohlc[parts.test]), float(config["temperature"])
    )
    return {
        "labeled_sha256": windows.sha256,
        "split_sha256": parts.digest(),
        "num_windows": len(parts.test),
        "metrics": compute_metrics(windows.y[parts.test], proba),
    }


def find_checkpoint(folder: Path) -> Path:
    """Return the one folder below `folder` that holds weights as safetensors and their config."""
    from moola.errors import CheckpointError
    from moola.models.checkpoint import CONFIG, WEIGHTS

    found = sorted(p.parent for p in folder.rglob(WEIGHTS) if (p.parent / CONFIG).is_file())
    if len(found) != 1:
        raise CheckpointError(
            f"the version holds {len(found)} checkpoints", limit=f"one {WEIGHTS} with {CONFIG}"
        )
    return found[0]


def _limit(*, memory_mib: int, seconds: int) -> None:
    """Set the process's limits; a hard limit already lower stays."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_mib << 20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowest, lowest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
