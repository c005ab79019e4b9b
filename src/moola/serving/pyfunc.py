"""Log a trained model so that MLflow can serve it: models-from-code and safetensors, no pickle."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from moola.config import names

CHECKPOINT = "checkpoint"
_REQUIREMENTS = ("moola", "torch", "mlflow", "numpy", "pandas", "scikit-learn", "safetensors")


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
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={CHECKPOINT: str(checkpoint)},
            signature=signature(class_names),
            metadata={
                "input": f"OHLC windows in price units, float32, shape (n, {window_bars}, 4)"
            },
            pip_requirements=[f"{p}=={metadata.version(p)}" for p in _REQUIREMENTS],
        )


def signature(class_names: tuple[str, ...]) -> ModelSignature:
    """Return what the model answers and which parameters it takes.

    What may be sent is checked by the model itself and stated in the model's metadata: MLflow's own
    check answers a wrong shape with the whole input, and lets no table of windows through.
    """
    outputs = [
        ColSpec(DataType.long, "label"),
        ColSpec(DataType.string, "label_name"),
        *(ColSpec(DataType.double, f"probability_{name}") for name in class_names),
        ColSpec(Array(DataType.string), "label_set", required=False),
        ColSpec(DataType.string, "model_version"),
    ]
    params = [
        ParamSpec("calibrated", DataType.boolean, True),
        ParamSpec("return_set", DataType.boolean, False),
    ]
    return ModelSignature(outputs=Schema(outputs), params=ParamSchema(params))


def checkpoint_of(folder: Path) -> Path:
    """Return the checkpoint inside a downloaded model folder."""
    return folder / "artifacts" / CHECKPOINT
