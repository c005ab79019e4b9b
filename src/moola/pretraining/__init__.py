"""Self-supervised pretraining of encoders, and the measure of what they learned.

The three kinds
    `masked_lstm_pretrain` (hide bars, reconstruct them; `masking` draws which),
    `multitask_pretrain` (tasks that `targets` makes of the bars), `ts2vec_pretrain` (views and loss
    of `contrast`); `kinds` puts one face on them.
What they share
    `session` (from windows to a result and its checkpoint), `objective` (batches, held-out windows,
    precision), `loop` (pretraining as an objective of the training loop), `corpus` (the unlabelled
    windows on the device that trains),
    `data_augmentation` (augmented copies of them, also an augmenter of synthetic sets),
    `distributed` (several processes).
What was learned
    `quality` (masked error, probe, collapse), `plots`.
"""

from importlib import import_module
from typing import Any

_LAZY = {"MaskedLSTMPretrainer": "masked_lstm_pretrain", "TimeSeriesAugmenter": "data_augmentation"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
