"""The models by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from moola.errors import ConfigError, imported

Role = Literal["PRIMARY", "BASELINE", "TRANSFER", "CONTROL", "CLASSICAL", "LEGACY"]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model: where its class lives, what it takes and what it is for."""

    name: str
    path: str
    role: Role
    inputs: str
    purpose: str
    takes_encoder: bool = False

    @property
    def is_net(self) -> bool:
        """Whether it is a torch net, trained by gradient in epochs."""
        return self.role not in ("CLASSICAL", "CONTROL")

    @property
    def is_flat(self) -> bool:
        """Whether it looks at the 20 features of a window alone."""
        return self.inputs == _FLAT

    def load(self) -> type:
        """Import the estimator class."""
        module, _, name = self.path.rpartition(".")
        return imported(module, name)


_BARS, _BOTH, _FLAT = "OHLC", "OHLC + 20 features", "20 features"
_ENTRIES = (
    ModelEntry(
        name="enhanced_simple_lstm",
        path="moola.models.enhanced_simple_lstm.EnhancedSimpleLSTMModel",
        role="PRIMARY",
        inputs=_BOTH,
        purpose="BiLSTM with attention on OHLC beside an MLP on the 20 features",
        takes_encoder=True,
    ),
    ModelEntry(
        name="simple_lstm",
        path="moola.models.simple_lstm.SimpleLSTMModel",
        role="BASELINE",
        inputs=_BARS,
        purpose="one-way LSTM: is the bigger model needed?",
        takes_encoder=True,
    ),
    ModelEntry(
        name="adapter_lstm",
        path="moola.models.adapter_lstm.AdapterLSTMModel",
        role="TRANSFER",
        inputs=_BARS,
        purpose="TS2Vec encoder, adapter and small LSTM: what a large corpus is worth",
        takes_encoder=True,
    ),
    ModelEntry(
        name="minirocket",
        path="moola.models.controls.minirocket.MiniRocketModel",
        role="CONTROL",
        inputs=_BARS,
        purpose="fixed convolutions with a logistic head: is deep learning needed?",
    ),
    ModelEntry(
        name="quant",
        path="moola.models.controls.quant.QuantModel",
        role="CONTROL",
        inputs=_BARS,
        purpose="quantiles of intervals of a window, and trees",
    ),
    ModelEntry(
        name="hydra_multirocket",
        path="moola.models.controls.hydra.HydraMultiRocketModel",
        role="CONTROL",
        inputs=_BARS,
        purpose="the most accurate of the fast convolutions; dear",
    ),
    ModelEntry(
        name="logreg",
        path="moola.models.controls.classical.LogisticFeaturesModel",
        role="CLASSICAL",
        inputs=_FLAT,
        purpose="logistic regression: what the features alone can say",
    ),
    ModelEntry(
        name="rf",
        path="moola.models.controls.trees.RandomForestModel",
        role="CLASSICAL",
        inputs=_FLAT,
        purpose="random forest: do the features act together?",
    ),
    ModelEntry(
        name="hgb",
        path="moola.models.controls.trees.BoostedTreesModel",
        role="CLASSICAL",
        inputs=_FLAT,
        purpose="gradient-boosted trees, as many as folds say",
    ),
    ModelEntry(
        name="xgb",
        path="moola.models.controls.trees.XGBoostModel",
        role="CLASSICAL",
        inputs=_FLAT,
        purpose="gradient-boosted trees (extra: xgb)",
    ),
    ModelEntry(
        name="stack",
        path="moola.models.controls.stacking.StackingModel",
        role="CLASSICAL",
        inputs=_FLAT,
        purpose="flat models stacked on forward-chaining folds",
    ),
)
_EXTRAS = "moola.models.models_extras"
_LEGACY = (
    ModelEntry(
        name="tcn",
        path=f"{_EXTRAS}.tcn.TCNModel",
        role="LEGACY",
        inputs=_BARS,
        purpose="temporal convolutions (experimental)",
    ),
    ModelEntry(
        name="transformer_lstm",
        path=f"{_EXTRAS}.transformer_lstm.TransformerLSTMModel",
        role="LEGACY",
        inputs=_BARS,
        purpose="LSTM, then self-attention (deprecated)",
    ),
    ModelEntry(
        name="rwkv_ts",
        path=f"{_EXTRAS}.rwkv_ts.RWKVTSModel",
        role="LEGACY",
        inputs=_BARS,
        purpose="linear recurrence with learned decay (prototype)",
    ),
    ModelEntry(
        name="cnn_transformer",
        path=f"{_EXTRAS}.cnn_transformer.CNNTransformerModel",
        role="LEGACY",
        inputs=_BARS,
        purpose="convolutional stem, then self-attention (replaced by enhanced_simple_lstm)",
    ),
)
REGISTRY: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}


class ModelRegistry:
    """Models by role; the legacy ones are made only when asked for by their full path."""

    ACTIVE: ClassVar[dict[str, ModelEntry]] = {
        n: e for n, e in REGISTRY.items() if e.role != "CLASSICAL"
    }
    CLASSICAL: ClassVar[dict[str, ModelEntry]] = {
        n: e for n, e in REGISTRY.items() if e.role == "CLASSICAL"
    }
    LEGACY: ClassVar[dict[str, ModelEntry]] = {entry.name: entry for entry in _LEGACY}

    @classmethod
    def create(cls, name: str, config: dict[str, Any] | None = None) -> Any:
        """Return an unfitted estimator.

        Parameters
        ----------
        name
            Of an active or classical model; of a legacy one its full path, such as
            ``moola.models.models_extras.tcn.TCNModel``.
        config
            Its parameters.

        Returns
        -------
        estimator
            With ``fit``, ``predict``, ``predict_proba``, ``save`` and ``load``.

        Raises
        ------
        ConfigError
            For an unknown or legacy name, or an unknown parameter.
        """
        by_path = {entry.path: entry for entry in cls.LEGACY.values()}
        entry = REGISTRY.get(name) or by_path.get(name)
        if entry is None:
            raise cls._unknown(name)
        try:
            return entry.load()(**(config or {}))
        except TypeError as error:
            raise ConfigError(
                f"model {entry.name} does not take these parameters: {error}",
                limit=f"some of {', '.join(entry.load()().get_params())}",
                remedy="Correct the name of the parameter",
            ) from None

    @classmethod
    def _unknown(cls, name: str) -> ConfigError:
        if name in cls.LEGACY:
            return ConfigError(
                f"Model '{name}' is legacy. See models_extras/README.md to re-enable",
                limit=f"one of {', '.join(REGISTRY)}",
                remedy=f"Or ask for it by its full path, {cls.LEGACY[name].path}",
            )
        near = difflib.get_close_matches(name, [*REGISTRY, *cls.LEGACY], n=1)
        return ConfigError(
            f"model is {name!r}",
            limit=f"one of {', '.join(REGISTRY)}",
            remedy=f"Did you mean {near[0]!r}?" if near else "See `moola models`",
        )


def get_model(name: str, **config: Any) -> Any:
    """Return an unfitted estimator by name, see :meth:`ModelRegistry.create`."""
    return ModelRegistry.create(name, config)
