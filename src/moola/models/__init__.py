"""Models: scikit-learn estimators of OHLC windows, by name.

By name
    `catalogue` (every model with its role); `models_extras` holds the legacy ones.
Nets
    `enhanced_simple_lstm` (primary), `simple_lstm`, `adapter_lstm`; `bilstm_masked_autoencoder`,
    `multitask_bilstm` and `ts2vec` are what pretraining trains; `encoder` is the LSTM they share;
    `estimator` is the scikit-learn side of every net (fit, predict, save, load).
What all models share
    `base` (predict, checkpoints read back), `inputs` (windows and features, checked and scaled),
    `class_labels`, `folds`, `device`, `pretrained_utils` (strict loading of an encoder), `sktime`
    (the same models for sktime).
Rooms
    `fitting` (how a net is trained), `weights` (files, names and freezing of tensors), `controls`
    (models that are not nets).
"""

from typing import Any

from moola.models.catalogue import REGISTRY, ModelRegistry, get_model

_CLASSES = {entry.path.rpartition(".")[2]: entry for entry in REGISTRY.values()}

__all__ = ["REGISTRY", "ModelRegistry", "get_model"]


def __getattr__(name: str) -> Any:
    """Import an estimator's class when it is asked for by its name."""
    if name in _CLASSES:
        return _CLASSES[name].load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_CLASSES])
