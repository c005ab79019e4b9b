"""Log a trained model so that MLflow can serve it: models-from-code and safetensors, no pickle."""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, Schema

from moola import __version__
from moola.config import names
from moola.config.packaging import (
    CHECKPOINT,
    CHECKPOINT_FOLDER,
    MODEL_CODE,
    REQUIREMENTS,
    SIGNATURE_PARAMS,
    input_words,
    signature_outputs,
)
from moola.errors import DISTRIBUTION


def log_model(checkpoint: Path, *, window_bars: int, class_names: tuple[str, ...]) -> Any:
    """Log a checkpoint as the active run's model.

    Parameters
    ----------
    checkpoint
        Folder named ``checkpoint`` with ``model.safetensors`` and ``config.json`` (temperature and
        class names in it).
    window_bars
        T, stated in the model's metadata.
    class_names
        The K names, stated in the model's signature.

    Returns
    -------
    ModelInfo
        What MLflow knows of the logged model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return mlflow.pyfunc.log_model(
            name=names.MODEL_NAME,
            python_model=str(Path(__file__).with_name(MODEL_CODE)),
            artifacts={CHECKPOINT: str(checkpoint)},
            signature=signature(class_names),
            metadata={"input": input_words(window_bars)},
            pip_requirements=requirements(),
        )


def requirements() -> list[str]:
    """Return what a logged model needs, pinned to what is here.

    Moola's own version is not asked of the installed packages: `mlflow run` puts ``src`` on the
    path and installs nothing of that name.
    """
    installed = {p: metadata.version(p) for p in REQUIREMENTS if p != DISTRIBUTION}
    return [f"{p}=={installed.get(p, __version__)}" for p in REQUIREMENTS]


def signature(class_names: tuple[str, ...]) -> ModelSignature:
    """Return what the model answers and which parameters it takes.

    What may be sent is checked by the model itself and stated in the model's metadata: MLflow's own
    check answers a wrong shape with the whole input, and lets no table of windows through.
    """
    outputs = json.dumps(signature_outputs(class_names))
    return ModelSignature(
        outputs=Schema.from_json(outputs),
        params=ParamSchema.from_json(json.dumps(SIGNATURE_PARAMS)),
    )


def checkpoint_of(folder: Path) -> Path:
    """Return the checkpoint inside a downloaded model folder."""
    return folder / CHECKPOINT_FOLDER
