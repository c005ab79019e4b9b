"""Fine-tuning options with their defaults and limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moola.config import names
from moola.config.base import Config, check_choice, check_count, check_list, check_range
from moola.config.data import qualified
from moola.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
PRESETS = ("matched", "compact")
FREEZE_SCHEDULES = ("none", "frozen", "two_phase", "gradual", "phases")

# those that take a pretrained encoder
ENCODER_MODELS = ("enhanced_simple_lstm", "simple_lstm", "adapter_lstm")

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
    """

    model: str = "enhanced_simple_lstm"
    preset: str = "matched"
    hidden_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    labeled: str = names.DEFAULT_LABELED
    split: str = names.DEFAULT_SPLIT
    pretrained_encoder: str | None = None
    freeze: str = "two_phase"
    unfreeze_after: int = MASKED_LSTM_FREEZE_EPOCHS
    unfreeze_lr_factor: float = MASKED_LSTM_UNFREEZE_LR_REDUCTION
    phases: tuple[int, ...] = ()
    min_match_ratio: float = 0.80
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    dropout: float = 0.1
    patience: int = 20
    class_weight: str | None = None
    focal_gamma: float = 0.0
    use_temporal_aug: bool = False
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    synthetic: str | None = None
    seed: int = 17
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labeled", qualified(self.labeled, "labeled_windows"))
        if self.synthetic is not None:
            object.__setattr__(self, "synthetic", qualified(self.synthetic, "synthetic_cache"))
        for name in ("epochs", "batch_size"):
            check_count(name, getattr(self, name))
        for name in ("unfreeze_after", "patience", "seed"):
            check_count(name, getattr(self, name), low=0)
        _check_sizes(self)
        check_range("unfreeze_lr_factor", self.unfreeze_lr_factor, low=0, high=1, open_low=True)
        check_range("min_match_ratio", self.min_match_ratio, low=0, high=1)
        check_range("learning_rate", self.learning_rate, low=0, high=1, open_low=True)
        check_range("weight_decay", self.weight_decay, low=0, high=1)
        check_range("dropout", self.dropout, low=0, high=1, open_high=True)
        check_choice("freeze", self.freeze, FREEZE_SCHEDULES)
        check_choice("preset", self.preset, PRESETS)
        check_choice("device", self.device, DEVICES)
        for name in ("focal_gamma", "mixup_alpha", "cutmix_alpha"):
            check_range(name, getattr(self, name), low=0, high=100)
        if not isinstance(self.use_temporal_aug, bool):
            raise ConfigError(
                f"use_temporal_aug is {self.use_temporal_aug!r}", limit="true or false"
            )
        _check_class_weight(self.class_weight)
        object.__setattr__(self, "phases", check_list("phases", self.phases))
        _check_phases(self)
        if self.model not in ENCODER_MODELS and self.pretrained_encoder:
            raise ConfigError(
                f"model {self.model} takes no pretrained encoder",
                limit=f"one of {', '.join(ENCODER_MODELS)}",
            )

    @property
    def schedule(self) -> str:
        """The freeze schedule in force: `freeze` with an encoder, else ``none``."""
        return self.freeze if self.pretrained_encoder else "none"

    @property
    def augments(self) -> bool:
        """Whether training windows are augmented, as they are drawn or by a synthetic set."""
        return bool(
            self.use_temporal_aug or self.mixup_alpha or self.cutmix_alpha or self.synthetic
        )


def _check_sizes(config: FinetuneConfig) -> None:
    for name, most in LARGEST_SIZES.items():
        value = getattr(config, name)
        if value is None:
            continue
        check_count(name, value, high=most)
        if config.model not in SIZED_BY.get(name, ()):
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
