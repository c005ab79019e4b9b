"""Fine-tuning options with their defaults and limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from moola.config import names
from moola.config.base import Config, check_count, check_list, option
from moola.config.data import qualified
from moola.errors import ConfigError

ENCODER = "Encoder and freeze schedule"  # panels of the help
MODEL = "Model"
OPTIMISER = "Optimiser"
AUGMENTATION = "Loss and augmentation"

DEVICES = ("auto", "cpu", "cuda")
PRESETS = ("matched", "compact")
FREEZE_SCHEDULES = ("none", "frozen", "two_phase", "gradual", "phases")

# those that take a pretrained encoder
ENCODER_MODELS = ("enhanced_simple_lstm", "simple_lstm", "adapter_lstm")
# those that are fitted at once, on the CPU, instead of in epochs
FITTED_MODELS = (
    "minirocket", "quant", "hydra_multirocket", "logreg", "rf", "hgb", "xgb", "stack",
)  # fmt: skip
MODELS = (*ENCODER_MODELS, *FITTED_MODELS)
_OF_EVERY_MODEL = ("model", "labeled", "split", "seed", "device")

LARGEST_SIZES = {"hidden_size": 1024, "num_layers": 8, "num_heads": 64}
SIZED_BY = {  # which models a size means something to
    "hidden_size": ("enhanced_simple_lstm", "simple_lstm"),
    "num_layers": ("enhanced_simple_lstm", "simple_lstm"),
    "num_heads": ("enhanced_simple_lstm",),
}

MASKED_LSTM_FREEZE_EPOCHS = 10
MASKED_LSTM_UNFREEZE_LR_REDUCTION = 0.5  # 0.1 and 0.3 are the other usual choices


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Config):
    """How one classifier is trained on a labelled set, `labeled`: ``v1`` is ``labeled_windows/v1``.

    `preset` sizes enhanced_simple_lstm; `hidden_size` (LSTM units per direction), `num_layers` and
    `num_heads` (attention) go before it, and where they are None and there is an encoder, the net
    takes hidden size and layers from that. simple_lstm has 32 units in one layer, or the encoder's
    units; adapter_lstm takes its sizes from its encoder.
    `freeze` applies only with a `pretrained_encoder`. `unfreeze_after` is the number of epochs the
    encoder stays frozen under ``two_phase`` (0: it starts unfrozen); ``gradual`` unfreezes one
    more layer, from the top, every `unfreeze_after` epochs; ``phases`` takes the epochs of each
    phase from `phases`, which must add up to `epochs`. The learning rate is multiplied by
    `unfreeze_lr_factor` (0.5; 0.3 and 0.1 are usual too) at the first unfreezing. `patience` 0
    turns early stopping off. `class_weight` is ``balanced`` or a weight a class, such as ``1,2.5``.
    Augmentation (`use_temporal_aug`, `mixup_alpha`, `cutmix_alpha`) touches training windows only;
    `synthetic` names a stored synthetic set, each window of which trains where its parent does.
    A model that is fitted at once takes the set, the split and the seed; whatever else differs from
    its default is refused.
    """

    model: str = option(
        "enhanced_simple_lstm",
        f"{', '.join(ENCODER_MODELS)}, or without epochs: {', '.join(FITTED_MODELS)}.",
        panel=MODEL,
        suggested=MODELS,
    )
    preset: str = option(
        "matched",
        "matched (128 units x 2 layers) or compact (32 x 1); an encoder brings its own size.",
        choices=PRESETS,
    )
    hidden_size: int | None = option(
        None,
        "LSTM units per direction; 0: those of the encoder, else of the preset.",
        panel=MODEL, low=1, high=LARGEST_SIZES["hidden_size"], none=0,
    )  # fmt: skip
    num_layers: int | None = option(
        None,
        "LSTM layers; 0: those of the encoder, else of the preset.",
        panel=MODEL, low=1, high=LARGEST_SIZES["num_layers"], none=0,
    )  # fmt: skip
    num_heads: int | None = option(
        None, "Attention heads; 0: 2.", panel=MODEL, low=1, high=LARGEST_SIZES["num_heads"], none=0
    )
    labeled: str = option(
        names.DEFAULT_LABELED, "Labelled window set.",
        names=("--dataset",), stored="labeled_windows",
    )  # fmt: skip
    split: str = option(
        names.DEFAULT_SPLIT, "Split of the labelled set, forward in time.", stored="splits"
    )
    pretrained_encoder: str | None = option(
        None, "Checkpoint of an encoder; none: scratch.", none="none"
    )
    freeze: str = option(
        "two_phase", "none, frozen, two_phase, gradual or phases.",
        panel=ENCODER, choices=FREEZE_SCHEDULES,
    )  # fmt: skip
    unfreeze_after: int = option(
        MASKED_LSTM_FREEZE_EPOCHS,
        "Epochs the encoder stays frozen (gradual: epochs a layer); 0: it starts unfrozen.",
        panel=ENCODER, low=0,
    )  # fmt: skip
    unfreeze_lr_factor: float = option(
        MASKED_LSTM_UNFREEZE_LR_REDUCTION,
        "Rate after unfreezing, as a share of that before: 0.5, 0.3 or 0.1.",
        panel=ENCODER, low=0, high=1, open_low=True,
    )  # fmt: skip
    phases: tuple[int, ...] = option(
        (), "Epochs of each phase for --freeze phases: 30,10,5.", panel=ENCODER
    )
    min_match_ratio: float = option(
        0.80, "Share of the encoder's tensors that must be loaded.", panel=ENCODER, low=0, high=1
    )
    epochs: int = option(60, "Passes over the training windows, at most.", low=1)
    batch_size: int = option(32, "Windows a step of the optimiser.", panel=OPTIMISER, low=1)
    learning_rate: float = option(
        5e-4,
        "Learning rate of AdamW; the first thing to tune.",
        panel=OPTIMISER,
        low=0,
        high=1,
        open_low=True,
    )
    weight_decay: float = option(1e-4, "Weight decay of AdamW.", panel=OPTIMISER, low=0, high=1)
    dropout: float = option(
        0.1, "Share of units left out while training.", panel=MODEL, low=0, high=1, open_high=True
    )
    patience: int = option(
        20,
        "Early stopping: epochs without gain on validation windows; 0: train to the end.",
        panel=OPTIMISER, low=0,
    )  # fmt: skip
    class_weight: str | None = option(
        None, "balanced, or a weight a class: 1,2.5; empty: none.", panel=AUGMENTATION, none=""
    )
    focal_gamma: float = option(
        0.0, "Gamma of the focal loss; 0: cross-entropy.", panel=AUGMENTATION, low=0, high=100
    )
    use_temporal_aug: bool = option(
        False, "Warp and jitter training windows.", panel=AUGMENTATION, names=("--augment",)
    )
    mixup_alpha: float = option(
        0.0, "Mix training windows; 0: off.", panel=AUGMENTATION, low=0, high=100
    )
    cutmix_alpha: float = option(
        0.0, "Cut and mix training windows; 0: off.", panel=AUGMENTATION, low=0, high=100
    )
    synthetic: str | None = option(
        None,
        "Also train on a set of `moola data synth`, such as synthetic_cache/v1_jitter_r0.5.",
        panel=AUGMENTATION, none="", stored="synthetic_cache",
    )  # fmt: skip
    seed: int = option(17, "Seed of every random choice; the same seed, the same result.", low=0)
    device: str = option(
        "auto", "auto, cpu or cuda; cuda without a GPU is an error at once.", choices=DEVICES
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "labeled", qualified(self.labeled, "labeled_windows"))
        if self.synthetic is not None:
            object.__setattr__(self, "synthetic", qualified(self.synthetic, "synthetic_cache"))
        super().__post_init__()
        _check_sizes(self)
        _check_class_weight(self.class_weight)
        object.__setattr__(self, "phases", check_list("phases", self.phases))
        _check_phases(self)
        if self.model not in ENCODER_MODELS and self.pretrained_encoder:
            raise ConfigError(
                f"model {self.model} takes no pretrained encoder",
                limit=f"one of {', '.join(ENCODER_MODELS)}",
            )
        if self.model in FITTED_MODELS:
            _check_fitted_at_once(self)

    @property
    def schedule(self) -> str:
        """The freeze schedule in force: `freeze` with an encoder, else ``none``."""
        return self.freeze if self.pretrained_encoder else "none"

    @property
    def in_words(self) -> str:
        """The model in words, with its preset where a preset sizes it."""
        sized = self.model not in FITTED_MODELS
        return f"{self.model} ({self.preset})" if sized else self.model

    @property
    def augments(self) -> bool:
        """Whether training windows are augmented, as they are drawn or by a synthetic set."""
        return bool(
            self.use_temporal_aug or self.mixup_alpha or self.cutmix_alpha or self.synthetic
        )


def _check_sizes(config: FinetuneConfig) -> None:
    for name in LARGEST_SIZES:
        if getattr(config, name) is not None and config.model not in SIZED_BY.get(name, ()):
            raise ConfigError(
                f"model {config.model} takes no {name}",
                limit=f"one of {', '.join(SIZED_BY[name])}",
                remedy="adapter_lstm takes its sizes from its encoder"
                if config.model == "adapter_lstm"
                else None,
            )
    if config.hidden_size and config.num_heads and 2 * config.hidden_size % config.num_heads:
        raise ConfigError(
            f"num_heads is {config.num_heads}",
            limit=f"a divisor of {2 * config.hidden_size}, twice the hidden size",
        )


def _check_fitted_at_once(config: FinetuneConfig) -> None:
    """Raise ConfigError for what differs from its default and cannot act on such a model."""
    different = [f.name for f in fields(config) if getattr(config, f.name) != f.default]
    require_acting(config.model, different)
    if config.device == "cuda":
        raise ConfigError(
            f"model {config.model} is given device 'cuda'", limit="auto or cpu: it has no GPU code"
        )


def require_acting(model: str, options: Iterable[str]) -> None:
    """Raise ConfigError for options that cannot act on a model without epochs and encoder."""
    idle = [name for name in options if name not in _OF_EVERY_MODEL]
    if idle and model in FITTED_MODELS:
        raise ConfigError(
            f"model {model} takes no {', '.join(idle)}",
            limit=f"{', '.join(_OF_EVERY_MODEL)}: it is fitted at once, not in epochs",
            remedy=f"Leave them out, or train one of {', '.join(ENCODER_MODELS)}",
        )


def _check_class_weight(spec: str | None) -> None:
    if spec in (None, "balanced"):
        return
    try:
        weights = [float(part) for part in str(spec).split(",")]
    except ValueError:
        weights = [math.nan]
    if not all(math.isfinite(w) and w > 0 for w in weights):
        raise ConfigError(
            f"class_weight is {spec!r}",
            limit="balanced, nothing, or a number above 0 for each class such as 1,2.5",
        )


def _check_phases(config: FinetuneConfig) -> None:
    for count in config.phases:
        check_count("phases", count)
    if config.schedule == "phases" and sum(config.phases) != config.epochs:
        raise ConfigError(
            f"phases {list(config.phases)} last {sum(config.phases)} epochs",
            limit=f"{config.epochs}, as epochs says",
            remedy=f"Use --epochs {sum(config.phases)}" if config.phases else "Give --phases",
        )
    if config.phases and config.freeze != "phases":
        raise ConfigError(
            f"phases {list(config.phases)} is given with freeze {config.freeze!r}",
            limit="freeze 'phases'",
        )
