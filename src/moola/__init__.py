"""Moola: tracking and gated promotion of small time-series classifiers on OHLC windows."""

__version__ = "0.1.0"

_LAZY = {  # names that are imported when they are asked for; docs/api.md explains them
    "Belief": "moola.promotion.ledger.belief",
    "DataContainer": "moola.data.store.container",
    "DataStore": "moola.data.store.data_store",
    "EnhancedSimpleLSTMModel": "moola.models.enhanced_simple_lstm",
    "Evidence": "moola.promotion.evidence.attestation",
    "FinetuneConfig": "moola.config.training",
    "GateReport": "moola.evaluation.gates.report",
    "Ledger": "moola.promotion.ledger.base",
    "LedgerCheckpoint": "moola.promotion.ledger.checkpoint",
    "MoolaClassifier": "moola.models.sktime",
    "PretrainConfig": "moola.config.pretraining",
    "PromotionPolicy": "moola.config.promotion",
    "TimeSeriesAugmenter": "moola.pretraining.data_augmentation",
    "TrackedRun": "moola.tracking.run",
    "WindowSet": "moola.data.store.sets",
    "compute_ece": "moola.metrics",
    "compute_metrics_pack": "moola.metrics",
    "features20": "moola.data.features",
    "get_model": "moola.models.catalogue",
    "load_pretrained_strict": "moola.models.pretrained_utils",
    "loss_difference": "moola.evaluation.rows",
    "report_state_dict_load": "moola.models.pretrained_utils",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from moola.errors import imported  # not at the start of every command

        return imported(_LAZY[name], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
