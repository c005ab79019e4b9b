"""Log a trained model so that MLflow can serve it: models-from-code and safetensors, no pickle."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from moola.config import names

_REQUIREMENTS = ("moola", "torch", "mlflow", "numpy", "pandas", "scikit-learn", "safetensors")


def log_model(checkpoint: Path, *, window_bars: int, class_names: tuple[str, ...]) -> Any:
    """Log a checkpoint as the active run's model.

    Parameters
    ----------
    checkpoint
        Folder with ``model.safetensors`` and ``config.json`` (temperature and class names in it).
    window_bars, class_names
        T and the K names, for the signature.

    Returns
    -------
    MLflow's ``ModelInfo``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return mlflow.pyfunc.log_model(
            name=names.MODEL_NAME,
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={"checkpoint": str(checkpoint)},
            signature=signature(window_bars, class_names),
            pip_requirements=[f"{p}=={metadata.version(p)}" for p in _REQUIREMENTS],
        )


def signature(window_bars: int, class_names: tuple[str, ...]) -> ModelSignature:
    """Return the model's contract: one tensor in, one row a window out."""
    outputs = [
        ColSpec(DataType.long, "label"),
        ColSpec(DataType.string, "label_name"),
        *(ColSpec(DataType.double, f"probability_{name}") for name in class_names),
        ColSpec(DataType.string, "model_version"),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, window_bars, 4))]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("calibrated", DataType.boolean, True)]),
    )
