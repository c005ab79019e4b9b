"""Options of the three kinds of pretraining, with their defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moola.config import names
from moola.config.base import Config, option
from moola.config.training import DEVICES, MODEL, OPTIMISER

MASKS = "Masking and reconstruction"  # panels of the help
CORPUS = "What an epoch holds"
TASKS = "Tasks"

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

    unlabeled: str = option(
        names.DEFAULT_UNLABELED, "Unlabelled window set.",
        names=("--input",), stored="unlabeled_windows",
    )  # fmt: skip
    epochs: int = option(MASKED_LSTM_N_EPOCHS, "Passes over the training windows, at most.", low=1)
    learning_rate: float = option(
        MASKED_LSTM_LEARNING_RATE, "Learning rate of AdamW; the first thing to tune.",
        panel=OPTIMISER, low=0, high=1, open_low=True,
    )  # fmt: skip
    weight_decay: float = option(1e-4, "Weight decay of AdamW.", panel=OPTIMISER, low=0, high=1)
    batch_size: int = option(
        MASKED_LSTM_BATCH_SIZE, "Windows a step of the optimiser.", panel=OPTIMISER, low=1
    )
    schedule: str = option(
        "cosine", "Schedule of the learning rate: cosine (by epoch) or onecycle (by step).",
        panel=OPTIMISER, choices=RATE_SCHEDULES,
    )  # fmt: skip
    val_split: float = option(
        MASKED_LSTM_VAL_SPLIT, "Share of windows held out, the latest.",
        panel=CORPUS, low=0, high=0.5, open_low=True,
    )  # fmt: skip
    patience: int = option(
        MASKED_LSTM_PATIENCE, "Early stopping: epochs without gain on held-out windows.",
        panel=OPTIMISER, low=1,
    )  # fmt: skip
    sampling: str = option(
        "all",
        "all: every window once; offsets: at random offsets, every bar once on average.",
        panel=CORPUS, choices=SAMPLINGS,
    )  # fmt: skip
    windows_per_epoch: int | None = option(
        None, "Windows drawn an epoch; 0: see --sampling.", panel=CORPUS, low=1, none=0
    )
    amp: str = option(
        "auto", "bf16, fp32, or auto: bf16 where the hardware has it.",
        panel=OPTIMISER, choices=PRECISIONS,
    )  # fmt: skip
    max_resident_mb: int = option(
        4096, "A larger corpus is streamed instead of held on the device, MB.", panel=CORPUS, low=1
    )
    seed: int = option(17, "Seed of every random choice; the same seed, the same result.", low=0)
    device: str = option(
        "auto", "auto, cpu or cuda; cuda without a GPU is an error at once.", choices=DEVICES
    )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(CorpusConfig):
    """How a masked BiLSTM encoder is pretrained.

    `reconstruct`: what the decoder gives for a masked bar: ``bar``, or with ``bridge`` its distance
    from the line between the visible bars on either side, which is learned far sooner.
    `latent_weight` is that of the term against collapse. With `augment`, an epoch holds
    `num_augmentations` augmented copies of every window beside it: drawn anew each time on the
    training device, or made once before training (`materialise_augmented`).
    """

    hidden_dim: int = option(
        MASKED_LSTM_HIDDEN_DIM, "LSTM units per direction; 128 fits the preset matched.",
        panel=MODEL, low=1,
    )  # fmt: skip
    num_layers: int = option(
        MASKED_LSTM_NUM_LAYERS, "LSTM layers; 2 fit the preset matched.", panel=MODEL, low=1
    )
    dropout: float = option(
        MASKED_LSTM_DROPOUT, "Share of units left out while training.",
        panel=MODEL, low=0, high=1, open_high=True,
    )  # fmt: skip
    mask_ratio: float = option(
        MASKED_LSTM_MASK_RATIO, "Share of bars hidden from the encoder.",
        panel=MASKS, low=0, high=1, open_low=True, open_high=True,
    )  # fmt: skip
    mask_strategy: str = option(
        MASKED_LSTM_MASK_STRATEGY,
        "random (single bars), block (one stretch) or patch (several of --patch-size bars).",
        panel=MASKS, choices=MASK_STRATEGIES,
    )  # fmt: skip
    patch_size: int = option(MASKED_LSTM_PATCH_SIZE, "Bars of a patch.", panel=MASKS, low=1)
    reconstruct: str = option(
        "bar", "bar, or bridge: its distance from a line between the visible bars.",
        panel=MASKS, choices=RECONSTRUCTIONS,
    )  # fmt: skip
    latent_weight: float = option(
        MASKED_LSTM_LATENT_WEIGHT, "Weight of the anti-collapse term.", panel=MASKS, low=0, high=10
    )
    augment: bool = option(False, "Add augmented windows.", panel=CORPUS)
    num_augmentations: int = option(
        MASKED_LSTM_AUG_NUM_VERSIONS, "Augmented copies of each window.", panel=CORPUS, low=1
    )
    materialise_augmented: bool = option(
        False, "Make the copies once, instead of anew for every batch.", panel=CORPUS
    )

    def encoder_shape(self) -> dict[str, Any]:
        """Return the arguments that rebuild the autoencoder."""
        keys = ("hidden_dim", "num_layers", "dropout")
        return {**{k: getattr(self, k) for k in keys}, "bridge": self.reconstruct == "bridge"}


@dataclass(frozen=True, kw_only=True)
class TS2VecConfig(CorpusConfig):
    """How a TS2Vec encoder is pretrained; shape, rate and batch size are the paper's."""

    hidden_dim: int = option(64, "Channels inside.", panel=MODEL, low=1)
    output_dim: int = option(320, "Length of a representation.", panel=MODEL, low=1)
    depth: int = option(10, "Residual blocks.", panel=MODEL, low=1)
    dropout: float = option(
        0.1, "Share of units left out while training.", panel=MODEL, low=0, high=1, open_high=True
    )
    epochs: int = option(20, "Passes over the training windows, at most.", low=1)
    batch_size: int = option(16, "Windows a step of the optimiser.", panel=OPTIMISER, low=1)
    sampling: str = option(
        "offsets",
        "all: every window once; offsets: at random offsets, every bar once on average.",
        panel=CORPUS, choices=SAMPLINGS,
    )  # fmt: skip
    instance_weight: float = option(
        0.5,
        "Weight of the contrast between windows; the rest is the contrast between bars.",
        panel=MODEL,
        low=0,
        high=1,
    )

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

    hidden_dim: int = option(
        MASKED_LSTM_HIDDEN_DIM, "LSTM units per direction; 128 fits the preset matched.",
        panel=MODEL, low=1,
    )  # fmt: skip
    num_layers: int = option(
        MASKED_LSTM_NUM_LAYERS, "LSTM layers; 2 fit the preset matched.", panel=MODEL, low=1
    )
    dropout: float = option(
        MASKED_LSTM_DROPOUT, "Share of units left out while training.",
        panel=MODEL, low=0, high=1, open_high=True,
    )  # fmt: skip
    horizon_bars: int = option(6, "How far targets look ahead.", panel=TASKS, low=1)
    direction_weight: float = option(
        0.5, "Weight of the task: where does the price go?", panel=TASKS, low=0, high=1
    )
    swing_weight: float = option(
        0.3, "Weight of the task: is this bar a turning point?", panel=TASKS, low=0, high=1
    )
    candle_weight: float = option(
        0.2, "Weight of the task: which shape does this bar have?", panel=TASKS, low=0, high=1
    )

    def encoder_shape(self) -> dict[str, Any]:
        """Return the arguments that rebuild the encoder and its heads."""
        keys = ("hidden_dim", "num_layers", "dropout")
        return {k: getattr(self, k) for k in keys}
