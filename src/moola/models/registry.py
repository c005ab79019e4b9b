"""The models by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from moola.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model: where its class lives, what it is for and what it takes."""

    name: str
    path: str
    role: str
    purpose: str
    takes_encoder: bool = False

    def load(self) -> type:
        """Import the estimator class."""
        module, _, name = self.path.rpartition(".")
        return getattr(import_module(module), name)


_ENTRIES = (
    ModelEntry(
        name="enhanced_simple_lstm",
        path="moola.models.enhanced_simple_lstm.EnhancedSimpleLSTMModel",
        role="PRIMARY",
        purpose="BiLSTM with attention on OHLC beside an MLP on the 20 features",
        takes_encoder=True,
    ),
    ModelEntry(
        name="simple_lstm",
        path="moola.models.simple_lstm.SimpleLSTMModel",
        role="BASELINE",
        purpose="one-way LSTM on OHLC alone: is the bigger model needed?",
        takes_encoder=True,
    ),
    ModelEntry(
        name="minirocket",
        path="moola.models.classical.MiniRocketModel",
        role="CONTROL",
        purpose="fixed random convolutions with a logistic head, on OHLC alone",
    ),
    ModelEntry(
        name="logreg",
        path="moola.models.classical.LogisticFeaturesModel",
        role="CLASSICAL",
        purpose="logistic regression on the 20 features",
    ),
)
REGISTRY: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}


class ModelRegistry:
    """Models by role."""

    ACTIVE: ClassVar[dict[str, ModelEntry]] = {
        n: e for n, e in REGISTRY.items() if e.role != "CLASSICAL"
    }
    CLASSICAL: ClassVar[dict[str, ModelEntry]] = {
        n: e for n, e in REGISTRY.items() if e.role == "CLASSICAL"
    }

    @classmethod
    def create(cls, name: str, config: dict[str, Any] | None = None) -> Any:
        """Return an unfitted estimator; raises ConfigError for an unknown name or parameter."""
        if name not in REGISTRY:
            near = difflib.get_close_matches(name, REGISTRY, n=1)
            raise ConfigError(
                f"model is {name!r}",
                limit=f"one of {', '.join(REGISTRY)}",
                remedy=f"Did you mean {near[0]!r}?" if near else None,
            )
        try:
            return REGISTRY[name].load()(**(config or {}))
        except TypeError as error:
            raise ConfigError(f"model {name} does not take these parameters: {error}") from None


def get_model(name: str, **config: Any) -> Any:
    """Return an unfitted estimator by name."""
    return ModelRegistry.create(name, config)
