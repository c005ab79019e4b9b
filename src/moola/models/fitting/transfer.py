"""Fitting a net from a pretrained encoder: strict loading, then a freeze schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray
from torch import nn

from moola.config.training import MASKED_LSTM_FREEZE_EPOCHS, MASKED_LSTM_UNFREEZE_LR_REDUCTION
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.pretrained_utils import load_pretrained_strict
from moola.models.weights.freeze import FreezeCallback, make_schedule


class LoadEncoder(Callback):
    """Loads a pretrained encoder into the fresh net, before anything else looks at it.

    Parameters
    ----------
    path
        A checkpoint folder, a ``.safetensors`` or a ``.pt`` file.
    freeze
        Whether its tensors are frozen at once; a freeze schedule sees to the rest.
    min_match_ratio
        Least share of the encoder's tensors that must match.
    """

    def __init__(self, path: str | Path, *, freeze: bool, min_match_ratio: float = 0.80):
        self.path, self.freeze, self.min_match_ratio = path, freeze, min_match_ratio
        self.report: dict[str, Any] | None = None

    def on_fit_begin(self, state: FitState) -> None:
        """Load all tensors or none; what the encoder did not bring is never frozen."""
        self.report = load_pretrained_strict(
            state.net, self.path, freeze_encoder=self.freeze, min_match_ratio=self.min_match_ratio
        )
        other = (tensor["name"] for tensor in self.report["mismatched"])
        state.never_frozen = frozenset((*self.report["missing"], *other))


class FromEncoder:
    """Lets an LSTM estimator start from a pretrained encoder; list it before the base estimator.

    `moola train` does the same and proves it; here nothing is audited and nothing logged.

    Attributes
    ----------
    load_report_
        What the last fit took from the encoder; None without one.
    """

    _encoder: str | Path | None = None
    load_report_: dict[str, Any] | None = None

    def fit(
        self,
        X: NDArray,
        y: NDArray,
        *,
        pretrained_encoder_path: str | Path | None = None,
        freeze_encoder: bool = True,
        unfreeze_encoder_after: int = MASKED_LSTM_FREEZE_EPOCHS,
        callbacks: Sequence[Callback] = (),
        **options: Any,
    ) -> Self:
        """Train on windows, from an encoder where one is given here or was loaded before.

        Parameters
        ----------
        X, y, callbacks, **options
            As `moola.models.estimator.TorchWindowClassifier.fit`.
        pretrained_encoder_path
            Checkpoint of the encoder; it must be of the net's hidden size and layers.
        freeze_encoder
            Whether the encoder stays frozen at first.
        unfreeze_encoder_after
            Epochs it stays so; 0: it starts unfrozen. Then the learning rate is halved.

        Raises
        ------
        CheckpointError
            If the encoder cannot be loaded whole.
        """
        path = pretrained_encoder_path or self._encoder
        if path is None:
            return super().fit(X, y, callbacks=callbacks, **options)  # type: ignore[misc]
        schedule = make_schedule(
            "two_phase" if freeze_encoder else "none",
            unfreeze_after=unfreeze_encoder_after,
            lr_factor=MASKED_LSTM_UNFREEZE_LR_REDUCTION,
            num_layers=self.num_layers,  # type: ignore[attr-defined]
            bidirectional=getattr(self, "bidirectional", True),
        )
        loader = LoadEncoder(path, freeze=freeze_encoder)
        steps = (loader, FreezeCallback(schedule), *callbacks)
        super().fit(X, y, callbacks=steps, **options)  # type: ignore[misc]
        self.load_report_ = loader.report
        return self

    def load_pretrained_encoder(
        self, encoder_path: str | Path, freeze_encoder: bool = True
    ) -> dict[str, Any] | None:
        """Start the next fits from an encoder; a fitted net takes it at once.

        Parameters
        ----------
        encoder_path
            Checkpoint of the encoder.
        freeze_encoder
            Whether a fitted net's encoder is frozen.

        Returns
        -------
        dict or None
            The load report; None where there is no net yet.

        Raises
        ------
        CheckpointError
            If the net does not take it; the net is then what it was.
        """
        net: nn.Module | None = getattr(self, "net_", None)
        report = None
        if net is not None:
            report = load_pretrained_strict(net, encoder_path, freeze_encoder=freeze_encoder)
        self._encoder = encoder_path
        return report
