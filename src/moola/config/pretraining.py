"""Options of the three kinds of pretraining, with their defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moola.config import names
from moola.config.base import Config, check_choice, check_count, check_range
from moola.config.training import DEVICES

MASK_STRATEGIES = ("random", "block", "patch")
SAMPLINGS = ("all", "offsets")
RECONSTRUCTIONS = ("bar", "bridge")
RATE_SCHEDULES = ("cosine", "onecycle")
PRECISIONS = ("auto", "bf16", "fp32")

MASKED_LSTM_HIDDEN_DIM = 128
MASKED_LSTM_NUM_LAYERS = 2
MASKED_LSTM_DROPOUT = 0.2
MASKED_LSTM_MASK_RATIO = 0.15
MASKED_LSTM_MASK_STRATEGY = "patch"
MASKED_LSTM_PATCH_SIZE = 7
MASKED_LSTM_LATENT_WEIGHT = 0.1
MASKED_LSTM_N_EPOCHS = 50
MASKED_LSTM_LEARNING_RATE = 1e-3
MASKED_LSTM_BATCH_SIZE = 512
MASKED_LSTM_VAL_SPLIT = 0.1
MASKED_LSTM_PATIENCE = 10
MASKED_LSTM_AUG_NUM_VERSIONS = 4


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Config):
    """What every pretraining shares: the corpus, how an epoch is drawn from it, the optimiser.

    Parameters
    ----------
    unlabeled
        The corpus.
    epochs, batch_size, learning_rate, weight_decay
        Of AdamW; gradients are clipped at norm 1.
    schedule
        ``cosine``: the rate falls to 1e-5, epoch by epoch; ``onecycle``: it rises over the first
        tenth of all steps and falls to 1e-5, step by step.
    val_split, patience
        Share of windows held out, the latest; epochs without gain before training stops.
    sampling, windows_per_epoch
        ``all``: an epoch is every window once, or `windows_per_epoch` of them at random. Windows
        cut at every bar share all but one of their bars, so most of such an epoch is repetition;
        ``offsets`` draws `windows_per_epoch` windows at random offsets, spread evenly over time
        (default: so many that every bar comes once on average).
    amp
        ``bf16`` or ``fp32``; ``auto``: bf16 where the hardware has it.
    max_resident_mb
        A corpus larger than this is not held on the device but streamed from the memory map.
    """

    unlabeled: str = names.DEFAULT_UNLABELED
    epochs: int = MASKED_LSTM_N_EPOCHS
    learning_rate: float = MASKED_LSTM_LEARNING_RATE
    weight_decay: float = 1e-4
    batch_size: int = MASKED_LSTM_BATCH_SIZE
    schedule: str = "cosine"
    val_split: float = MASKED_LSTM_VAL_SPLIT
    patience: int = MASKED_LSTM_PATIENCE
    sampling: str = "all"
    windows_per_epoch: int | None = None
    amp: str = "auto"
    max_resident_mb: int = 4096
    seed: int = 17
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "max_resident_mb"):
            check_count(name, getattr(self, name))
        if self.windows_per_epoch is not None:
            check_count("windows_per_epoch", self.windows_per_epoch)
        check_range("learning_rate", self.learning_rate, low=0, high=1, open_low=True)
        check_range("weight_decay", self.weight_decay, low=0, high=1)
        check_range("val_split", self.val_split, low=0, high=0.5, open_low=True)
        check_choice("schedule", self.schedule, RATE_SCHEDULES)
        check_choice("sampling", self.sampling, SAMPLINGS)
        check_choice("amp", self.amp, PRECISIONS)
        check_choice("device", self.device, DEVICES)
        check_count("seed", self.seed, low=0)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(CorpusConfig):
    """How a masked BiLSTM encoder is pretrained.

    `reconstruct`: what the decoder gives for a masked bar: ``bar``, or with ``bridge`` its distance
    from the line between the visible bars on either side, which is learned far sooner.
    `latent_weight` is that of the term against collapse. With `augment`, an epoch holds
    `num_augmentations` augmented copies of every window beside it: drawn anew each time on the
    training device, or made once before training (`materialise_augmented`).
    """

    hidden_dim: int = MASKED_LSTM_HIDDEN_DIM
    num_layers: int = MASKED_LSTM_NUM_LAYERS
    dropout: float = MASKED_LSTM_DROPOUT
    mask_ratio: float = MASKED_LSTM_MASK_RATIO
    mask_strategy: str = MASKED_LSTM_MASK_STRATEGY
    patch_size: int = MASKED_LSTM_PATCH_SIZE
    reconstruct: str = "bar"
    latent_weight: float = MASKED_LSTM_LATENT_WEIGHT
    augment: bool = False
    num_augmentations: int = MASKED_LSTM_AUG_NUM_VERSIONS
    materialise_augmented: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden_dim", "num_layers", "patch_size", "num_augmentations"):
            check_count(name, getattr(self, name))
        check_range("dropout", self.dropout, low=0, high=1, open_high=True)
        check_range("mask_ratio", self.mask_ratio, low=0, high=1, open_low=True, open_high=True)
        check_choice("mask_strategy", self.mask_strategy, MASK_STRATEGIES)
        check_range("latent_weight", self.latent_weight, low=0, high=10)
        check_choice("reconstruct", self.reconstruct, RECONSTRUCTIONS)

    def encoder_shape(self) -> dict[str, Any]:
        """Return the arguments that rebuild the autoencoder."""
        keys = ("hidden_dim", "num_layers", "dropout")
        return {**{k: getattr(self, k) for k in keys}, "bridge": self.reconstruct == "bridge"}


@dataclass(frozen=True, kw_only=True)
class TS2VecConfig(CorpusConfig):
    """How a TS2Vec encoder is pretrained; shape, rate and batch size are the paper's."""

    hidden_dim: int = 64
    output_dim: int = 320
    depth: int = 10
    dropout: float = 0.1
    epochs: int = 20
    batch_size: int = 16
    sampling: str = "offsets"
    instance_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden_dim", "output_dim", "depth"):
            check_count(name, getattr(self, name))
        check_range("dropout", self.dropout, low=0, high=1, open_high=True)
        check_range("instance_weight", self.instance_weight, low=0, high=1)

    def encoder_shape(self) -> dict[str, Any]:
        """Return the arguments that rebuild the encoder."""
        keys = ("hidden_dim", "output_dim", "depth", "dropout")
        return {k: getattr(self, k) for k in keys}


@dataclass(frozen=True, kw_only=True)
class MultitaskConfig(CorpusConfig):
    """How a BiLSTM encoder is pretrained on three tasks of its own making.

    `direction_weight`, `swing_weight` and `candle_weight` weigh the cross-entropies. Targets of a
    bar look at most `horizon_bars` bars ahead.
    """

    hidden_dim: int = MASKED_LSTM_HIDDEN_DIM
    num_layers: int = MASKED_LSTM_NUM_LAYERS
    dropout: float = MASKED_LSTM_DROPOUT
    horizon_bars: int = 6
    direction_weight: float = 0.5
    swing_weight: float = 0.3
    candle_weight: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden_dim", "num_layers", "horizon_bars"):
            check_count(name, getattr(self, name))
        check_range("dropout", self.dropout, low=0, high=1, open_high=True)
        for name in ("direction_weight", "swing_weight", "candle_weight"):
            check_range(name, getattr(self, name), low=0, high=1)

    def encoder_shape(self) -> dict[str, Any]:
        """Return the arguments that rebuild the encoder and its heads."""
        keys = ("hidden_dim", "num_layers", "dropout")
        return {k: getattr(self, k) for k in keys}
