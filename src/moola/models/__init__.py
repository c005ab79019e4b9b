"""Models: scikit-learn estimators of OHLC windows, by name.

By name
    `registry` (every model with its role); `models_extras` holds the legacy ones.
Nets
    `enhanced_simple_lstm` (primary), `simple_lstm`, `adapter_lstm`; `bilstm_masked_autoencoder`,
    `multitask_bilstm` and `ts2vec` are what pretraining trains; `encoder` is the LSTM they share.
How a net is trained
    `estimator` (fit, predict, save, load), `training_params` (its arguments), `fit_loop` (epochs),
    `batches` (the training set on the device), `augmentation` (its random changes, epoch by epoch),
    `losses`, `callbacks` (what may look in), `early_stopping`, `fit_resume` (state on disk),
    `net_tensors` (parameters and buffers alike), `freeze` (schedules: which of them may move),
    `frozen` (what a frozen tensor takes along), `transfer` (fit from a pretrained encoder),
    `device` (what it is computed on).
Models that are not nets
    `classical` (their bases, and logistic regression), `trees`, `stacking`, `minirocket`, `quant`,
    `hydra`; `linear_head` and `folds` serve them; `benchmark_ucr` checks some against the papers.
What all share
    `base` (predict, checkpoints read back), `inputs` (windows and features, checked and scaled),
    `class_labels`, `checkpoint` (files), `pretrained_utils` (strict loading of an encoder) with
    `load_report` (what it found), `sktime` (the same models for sktime).
"""

from typing import Any

from moola.models.registry import REGISTRY, ModelRegistry, get_model

_CLASSES = {entry.path.rpartition(".")[2]: entry for entry in REGISTRY.values()}

__all__ = ["REGISTRY", "ModelRegistry", "get_model"]


def __getattr__(name: str) -> Any:
    """Import an estimator's class when it is asked for by its name."""
    if name in _CLASSES:
        return _CLASSES[name].load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_CLASSES])
