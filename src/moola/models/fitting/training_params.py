"""The training parameters that all torch classifiers share."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from moola.models.base import estimator


@estimator
class TrainingParams(BaseEstimator):
    """The parameters that do not depend on the network.

    A subclass that is an `estimator` too adds fields of its own: ``hidden_size: int = 32``.

    Parameters
    ----------
    input_kind
        ``ohlc``: price bars, with the 20 features computed from them. ``series``: any numbers,
        shape (n, T, C), standardised by channel.
    seed
        Seeds initialisation, batch order and dropout; equal seeds give equal weights on one device.
    n_epochs, batch_size, learning_rate, weight_decay
        AdamW over shuffled batches.
    early_stopping_patience
        Epochs without a better validation loss before training ends; the best epoch's weights are
        kept. Needs validation data, given to ``fit`` or cut off by `val_split`.
    val_split
        Share of the training windows, the latest ones, held back for early stopping; 0: none.
    gap_windows
        Windows left out before those that `val_split` holds back, as neighbouring windows share
        bars; 19 suits windows of 105 bars with a horizon of 6, cut every 6 bars. Series of
        `input_kind` ``series`` have no gap.
    class_weight
        None, ``"balanced"`` (weights n / (K * n_k) in the loss) or a weight a class: ``"1,2.5"``.
    focal_gamma
        Gamma of the focal loss; 0: cross-entropy.
    use_temporal_aug, mixup_alpha, cutmix_alpha
        Augmentation of the training windows, see
        :class:`~moola.models.fitting.augmentation.Augmentation`.
    use_amp
        bfloat16 autocast, on CUDA only.
    cache_frozen
        Whether epochs with a frozen encoder run on its outputs, computed once.
    device
        ``cpu`` or ``cuda``.
    """

    input_kind: str = "ohlc"
    seed: int = 17
    n_epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    early_stopping_patience: int = 20
    val_split: float = 0.0
    gap_windows: int = 19
    class_weight: str | None = None
    focal_gamma: float = 0.0
    use_temporal_aug: bool = False
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    use_amp: bool = False
    cache_frozen: bool = True
    device: str = "cpu"
