"""Models: scikit-learn estimators of OHLC windows, by name."""

from moola.models.registry import REGISTRY, ModelRegistry, get_model

__all__ = ["REGISTRY", "ModelRegistry", "get_model"]
