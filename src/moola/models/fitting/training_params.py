"""What every torch classifier is trained by: one set of constructor arguments for all of them."""

from __future__ import annotations

import inspect

from sklearn.base import BaseEstimator


class TrainingParams(BaseEstimator):
    """The constructor arguments that do not depend on the network.

    A subclass names its own arguments and hands the rest on: ``def __init__(self, *, hidden_size:
    int = 32, **training: Any)``. ``get_params``, ``set_params`` and ``clone`` know both.

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
        Of the focal loss; 0: cross-entropy.
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

    def __init__(
        self,
        *,
        input_kind: str = "ohlc",
        seed: int = 17,
        n_epochs: int = 60,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-4,
        early_stopping_patience: int = 20,
        val_split: float = 0.0,
        gap_windows: int = 19,
        class_weight: str | None = None,
        focal_gamma: float = 0.0,
        use_temporal_aug: bool = False,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        use_amp: bool = False,
        cache_frozen: bool = True,
        device: str = "cpu",
    ):
        self.input_kind = input_kind
        self.seed = seed
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.early_stopping_patience = early_stopping_patience
        self.val_split = val_split
        self.gap_windows = gap_windows
        self.class_weight = class_weight
        self.focal_gamma = focal_gamma
        self.use_temporal_aug = use_temporal_aug
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.use_amp = use_amp
        self.cache_frozen = cache_frozen
        self.device = device

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """Return the named arguments of every constructor on the way here."""
        constructors = [vars(c)["__init__"] for c in cls.__mro__[:-1] if "__init__" in vars(c)]
        parameters = [p for c in constructors for p in inspect.signature(c).parameters.values()]
        return sorted({p.name for p in parameters if p.kind is p.KEYWORD_ONLY})
