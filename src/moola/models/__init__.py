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
    `net_tensors` (parameters and buffers alike), `frozen` (what a frozen tensor takes along).
Models that are not nets
    `classical` (their base, and logistic regression), `trees`, `stacking`, `minirocket`;
    `linear_head` and `folds` serve them; `benchmark_ucr` checks MiniRocket against the paper.
What all share
    `base` (predict, checkpoints read back), `inputs` (windows and features, checked and scaled),
    `class_labels`, `checkpoint` (files), `pretrained_utils` (strict loading of an encoder) with
    `load_report` (what it found), `sktime` (the same models for sktime).
"""

from moola.models.registry import REGISTRY, ModelRegistry, get_model

__all__ = ["REGISTRY", "ModelRegistry", "get_model"]
