"""The scikit-learn side of a torch classifier of OHLC windows: fit, predict, save, load.

One code path takes windows in price units to logits, in training and in serving alike: check,
normalise, compute the 20 features, standardise them by the train part's figures, run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils.validation import check_is_fitted
from torch import nn

from moola.errors import ConfigError
from moola.models.base import WindowClassifier
from moola.models.class_labels import checked_labels, held_back, known_labels
from moola.models.device import resolve_device
from moola.models.fitting.augmentation import TEMPORAL, Augmentation
from moola.models.fitting.batches import TrainSet, TrainSource
from moola.models.fitting.callbacks import Callback
from moola.models.fitting.classification import Classification
from moola.models.fitting.loop import LoopOptions, run_epochs
from moola.models.fitting.losses import ClassificationLoss, class_weights
from moola.models.fitting.resume import StateFile
from moola.models.fitting.training_params import TrainingParams
from moola.models.inputs import MAX_FEATURES, Inputs, check_input
from moola.models.weights.checkpoint import save_checkpoint

_PREDICT_BATCH = 1024


class TorchWindowClassifier(WindowClassifier, TrainingParams):
    """Base of the torch classifiers.

    Parameters
    ----------
    **training
        See :class:`~moola.models.fitting.training_params.TrainingParams`.

    Attributes
    ----------
    classes_
        Labels in sorted order, shape (K,).
    inputs_
        Shapes of the inputs and the figures they are scaled by.
    net_
        The fitted network.
    history_
        One dict an epoch.
    kept_epoch_
        The epoch, from 0, whose weights the estimator holds.
    resumed_at_
        The epoch a resumed fit went on with, None for one of a piece.
    """

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        raise NotImplementedError

    def fit(
        self,
        X: NDArray,
        y: NDArray,
        *,
        features: NDArray | None = None,
        validation: tuple[NDArray, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        state_file: StateFile | None = None,
    ) -> Self:
        """Train on windows in price units (or on other series, see `input_kind`).

        Parameters
        ----------
        X
            Shape (n, T, 4).
        y
            Labels of any sortable type, shape (n,), at least two classes.
        features
            Shape (n, F), F at most 20, in the place of the 20 that are computed. Prediction then
            needs them too; augmentation of bars leaves them as they are.
        validation
            Windows and labels for early stopping, and their features where `features` are given.
        callbacks
            See :class:`~moola.models.fitting.callbacks.Callback`; a freeze schedule and the
            forensics of its proof are callbacks.
        state_file
            Where the state is kept after every epoch, and whether to go on from it: a fit that
            was killed ends with the weights it would have had.

        Returns
        -------
        Self
            The estimator.

        Raises
        ------
        BadInput
            If shapes, prices, labels or parameters cannot be used.
        DeviceError
            If the device asked for is not there.
        ProofError
            If the loss becomes NaN, or a callback finds that the run breaks its word. Whatever is
            raised, the estimator is what it was before.
        """
        with self._rollback_on_error():
            return self._fit(
                X,
                y,
                features=features,
                validation=validation,
                callbacks=callbacks,
                state_file=state_file,
            )

    def _fit(
        self,
        X: NDArray,
        y: NDArray,
        *,
        features: NDArray | None,
        validation: tuple[NDArray, ...] | None,
        callbacks: Sequence[Callback],
        state_file: StateFile | None,
    ) -> Self:
        X, y = check_input(X, self.input_kind), np.asarray(y)
        classes, target = checked_labels(X, y)
        if validation is None and self.val_split > 0:
            parts = [np.asarray(part) for part in (X, y, features) if part is not None]
            gap = self.gap_windows if self.input_kind == "ohlc" else 0
            train, late = held_back(target, self.val_split, gap_windows=gap)
            validation = tuple(part[late] for part in parts)
            X, target = X[train], target[train]
            features = features if features is None else parts[2][train]
        self.inputs_, X, extra = Inputs.learn(X, features, kind=self.input_kind)
        self.classes_ = classes
        self.window_bars_ = self.inputs_.window_bars
        self.n_features_in_ = self.inputs_.num_channels
        validation_set = self._validation_set(validation)
        weight = class_weights(self.class_weight, target)
        weight = weight if weight is None else weight.to(self._place)
        source = TrainSource(
            X,
            target,
            prepare=lambda x: self._tensors(x, self.inputs_.recomputed(x, extra)),
            augmentation=self._augmentation(),
            seed=self.seed,
        )
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(self.seed)
            self.net_ = self.build_net(len(classes)).to(self._place)
            loss = ClassificationLoss(weight, self.focal_gamma)
            self._train(source, validation_set, loss, callbacks, state_file)
        return self

    def predict_proba(self, X: NDArray, *, features: NDArray | None = None) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K), rows summing to 1, columns as ``classes_``."""
        return np.asarray(softmax(self.decision_function(X, features=features), axis=1))

    @torch.inference_mode()
    def decision_function(
        self, X: NDArray, *, features: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Return logits, shape (n, K), float64."""
        check_is_fitted(self, "net_")
        x, f = self._inputs(X, features)
        if self.net_.training:  # to say so again to every module costs as much as a small layer
            self.net_.eval()
        logits = [
            self.net_(x[i : i + _PREDICT_BATCH], f[i : i + _PREDICT_BATCH]).float().cpu()
            for i in range(0, len(x), _PREDICT_BATCH)
        ]
        return np.asarray(torch.cat(logits).double().numpy())

    def logits(self, X: NDArray) -> NDArray[np.float64]:
        """Return logits, shape (n, K), float64."""
        return self.decision_function(X)

    @property
    def num_parameters(self) -> int:
        """Number of trainable and frozen parameters, counted."""
        net = self.net_ if hasattr(self, "net_") else self.build_net(2)
        return sum(p.numel() for p in net.parameters())

    def save(self, folder: Path, *, extra: dict[str, Any] | None = None) -> str:
        """Write ``model.safetensors`` and ``config.json``; return the weights' SHA-256."""
        check_is_fitted(self, "net_")
        params = {k: v for k, v in self.get_params().items() if k != "device"}
        config = {
            "model": self.model_name,
            "params": params,
            "classes": self.classes_.tolist(),
            **self.inputs_.to_dict(),
            **(extra or {}),
        }
        return save_checkpoint(folder, self.net_.state_dict(), config)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read what ``save`` wrote; raises CheckpointError if it does not fit."""
        with cls._reading(folder) as (checkpoint, params):
            config = checkpoint.config
            model = cls(**{**params, "device": device})
            model.classes_ = np.asarray(config["classes"])
            model.inputs_ = Inputs.from_dict(config, kind=model.input_kind)
            model.window_bars_ = model.inputs_.window_bars
            model.n_features_in_ = model.inputs_.num_channels
            model.net_ = model.build_net(len(model.classes_)).to(model._place)
            model.net_.load_state_dict(dict(checkpoint.tensors))
        return model

    @property
    def net_inputs(self) -> dict[str, int]:
        """The net's ``input_dim`` and ``num_features``: as fitted, else those of OHLC windows."""
        inputs: Inputs | None = getattr(self, "inputs_", None)
        if inputs is None:
            return {"input_dim": 4, "num_features": MAX_FEATURES}
        return {"input_dim": inputs.num_channels, "num_features": inputs.num_features}

    def _inputs(
        self, X: NDArray, features: NDArray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._tensors(*self.inputs_.check(X, features))

    def _tensors(
        self, X: NDArray[np.float32], features: NDArray[np.float32]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.from_numpy(self.inputs_.windows(X)).to(self._place),
            torch.from_numpy(self.inputs_.scaled_features(features)).to(self._place),
        )

    def _train(
        self,
        source: TrainSource,
        validation_set: TrainSet | None,
        loss: ClassificationLoss,
        callbacks: Sequence[Callback],
        state_file: StateFile | None,
    ) -> None:
        objective = Classification(
            self.net_, source, validation_set, loss=loss, batch_size=self.batch_size,
            use_amp=self.use_amp, cache_frozen=self.cache_frozen, seed=self.seed,
        )  # fmt: skip
        options = LoopOptions(
            num_epochs=self.n_epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.early_stopping_patience,
        )
        state = run_epochs(objective, options, callbacks=callbacks, state_file=state_file)
        self.history_, self.kept_epoch_ = state.history, state.kept_epoch
        self.resumed_at_ = state.resumed_at

    def _augmentation(self) -> Augmentation:
        if self.use_temporal_aug and self.input_kind != "ohlc":
            raise ConfigError(
                f"use_temporal_aug is given with input_kind {self.input_kind!r}",
                limit="input_kind 'ohlc'",
                remedy="Use mixup_alpha or cutmix_alpha on other series",
            )
        return Augmentation(
            temporal=TEMPORAL if self.use_temporal_aug else None,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
        )

    def _validation_set(self, validation: tuple[NDArray, ...] | None) -> TrainSet | None:
        if validation is None:
            return None
        x, f = self._inputs(validation[0], validation[2] if len(validation) > 2 else None)
        target = known_labels(validation[1], self.classes_, len(x))
        return TrainSet(x=x, features=f, target=torch.from_numpy(target).to(self._place))

    def _cuda_devices(self) -> list[int]:
        return [torch.cuda.current_device()] if self._place.startswith("cuda") else []

    @property
    def _place(self) -> str:
        """The device to compute on; raises DeviceError if it is not there."""
        if self.device.startswith("cuda:") and torch.cuda.is_available():
            return self.device
        return resolve_device(self.device.partition(":")[0])
