"""Moola: tracking and gated promotion of small time-series classifiers on OHLC windows."""

__version__ = "0.1.0"

_LAZY = {  # names that are imported when they are asked for
    "compute_ece": "moola.metrics",
    "compute_metrics_pack": "moola.metrics",
    "report_state_dict_load": "moola.models.pretrained_utils",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module  # not at the start of every command

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
