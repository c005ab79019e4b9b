"""The scikit-learn side of a torch classifier of OHLC windows: fit, predict, save, load.

One code path takes windows in price units to logits, in training and in serving alike:
check, normalise, compute the 20 features, standardise them by the train part's figures, run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from moola.data.features import features20
from moola.data.windows import check_windows, normalise
from moola.errors import BadInput
from moola.models.augmentation import Augmentation
from moola.models.batches import TrainSet, TrainSource, checked_labels
from moola.models.callbacks import Callback
from moola.models.checkpoint import read_checkpoint, save_checkpoint
from moola.models.fit_loop import FitLoop, LoopOptions
from moola.models.fit_state import StateFile
from moola.models.losses import ClassificationLoss, class_weights
from moola.models.training_params import TrainingParams

_PREDICT_BATCH = 1024


class TorchWindowClassifier(ClassifierMixin, TrainingParams):
    """Base of the torch classifiers.

    Parameters
    ----------
    **training
        See :class:`~moola.models.training_params.TrainingParams`.

    Attributes
    ----------
    classes_
        Labels in sorted order, shape (K,).
    net_
        The fitted network.
    history_
        One dict an epoch.
    kept_epoch_
        The epoch, from 0, whose weights the estimator holds.
    resumed_at_
        The epoch a resumed fit went on with, None for one of a piece.
    """

    model_name: ClassVar[str]

    def build_net(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised network for K classes."""
        raise NotImplementedError

    def fit(
        self,
        X: NDArray,
        y: NDArray,
        *,
        validation: tuple[NDArray, NDArray] | None = None,
        callbacks: Sequence[Callback] = (),
        state_file: StateFile | None = None,
    ) -> Self:
        """Train on windows in price units.

        Parameters
        ----------
        X
            Shape (n, T, 4).
        y
            Labels of any sortable type, shape (n,), at least two classes.
        validation
            Windows and labels for early stopping.
        callbacks
            See :class:`~moola.models.callbacks.Callback`; a freeze schedule and the forensics of
            its proof are callbacks.
        state_file
            Where the state is kept after every epoch, and whether to go on from it: a fit that
            was killed ends with the weights it would have had.

        Raises
        ------
        BadInput
            If shapes, prices, labels or parameters cannot be used.
        ProofError
            If the loss becomes NaN, or a callback finds that the run breaks its word. Whatever is
            raised, the estimator is what it was before.
        """
        before = dict(self.__dict__)
        try:
            return self._fit(X, y, validation, callbacks, state_file)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(
        self,
        X: NDArray,
        y: NDArray,
        validation: tuple[NDArray, NDArray] | None,
        callbacks: Sequence[Callback],
        state_file: StateFile | None,
    ) -> Self:
        X, y = check_windows(X), np.asarray(y)
        classes, target = checked_labels(X, y)
        if validation is None and self.val_split > 0:
            cut = len(X) - max(1, round(self.val_split * len(X)))
            X, validation, target = X[:cut], (X[cut:], y[cut:]), target[:cut]
        features = features20(X)
        mean, std = features.mean(axis=0), features.std(axis=0)
        self.classes_ = classes
        self.window_bars_ = int(X.shape[1])
        self.n_features_in_ = 4
        self.feature_mean_ = mean
        self.feature_scale_ = np.where(std > 1e-6, std, 1.0).astype(np.float32)
        held = self._validation_set(validation)
        weight = class_weights(self.class_weight, target)
        loss = ClassificationLoss(
            weight if weight is None else weight.to(self.device), self.focal_gamma
        )
        source = TrainSource(
            X, target, prepare=self._inputs, augmentation=self._augmentation(), seed=self.seed
        )
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(self.seed)
            self.net_ = self.build_net(len(classes)).to(self.device)
            self._train(source, held, loss, callbacks, state_file)
        return self

    def predict_proba(self, X: NDArray) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K), rows summing to 1, columns as ``classes_``."""
        logits = self.decision_function(X)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def predict(self, X: NDArray) -> NDArray:
        """Return the most probable label of each window, shape (n,)."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    @torch.inference_mode()
    def decision_function(self, X: NDArray) -> NDArray[np.float64]:
        """Return logits, shape (n, K), float64."""
        check_is_fitted(self, "net_")
        x, f = self._inputs(check_windows(X, window_bars=self.window_bars_))
        self.net_.eval()
        logits = [
            self.net_(x[i : i + _PREDICT_BATCH], f[i : i + _PREDICT_BATCH]).float().cpu()
            for i in range(0, len(x), _PREDICT_BATCH)
        ]
        return np.asarray(torch.cat(logits).double().numpy())

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
            "window_bars": self.window_bars_,
            "scaler": {
                "mean": [float(v) for v in self.feature_mean_],
                "scale": [float(v) for v in self.feature_scale_],
            },
            **(extra or {}),
        }
        return save_checkpoint(folder, self.net_.state_dict(), config)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read what ``save`` wrote; raises CheckpointError if it does not fit."""
        checkpoint = read_checkpoint(folder)
        config = checkpoint.config
        try:
            params: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in config["params"].items()
            }
            model = cls(**{**params, "device": device})
            model.classes_ = np.asarray(config["classes"])
            model.window_bars_ = int(config["window_bars"])
            model.n_features_in_ = 4
            model.feature_mean_ = np.asarray(config["scaler"]["mean"], dtype=np.float32)
            model.feature_scale_ = np.asarray(config["scaler"]["scale"], dtype=np.float32)
            model.net_ = model.build_net(len(model.classes_)).to(device)
            model.net_.load_state_dict(dict(checkpoint.tensors))
        except (KeyError, TypeError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise BadInput(f"{folder} is not a {cls.model_name} checkpoint: {first}") from None
        return model

    def _inputs(self, X: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = (features20(X) - self.feature_mean_) / self.feature_scale_
        return (
            torch.from_numpy(normalise(X)).to(self.device),
            torch.from_numpy(scaled.astype(np.float32)).to(self.device),
        )

    def _train(
        self,
        source: TrainSource,
        held: TrainSet | None,
        loss: ClassificationLoss,
        callbacks: Sequence[Callback],
        state_file: StateFile | None,
    ) -> None:
        options = LoopOptions(
            num_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.early_stopping_patience,
            use_amp=self.use_amp,
            cache_frozen=self.cache_frozen,
            seed=self.seed,
        )
        loop = FitLoop(self.net_, source, held, loss=loss, options=options, callbacks=callbacks)
        state = loop.run(state_file)
        self.history_, self.kept_epoch_ = state.history, state.kept_epoch
        self.resumed_at_ = state.resumed_at

    def _augmentation(self) -> Augmentation:
        return Augmentation(
            temporal=self.use_temporal_aug,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
        )

    def _validation_set(self, validation: tuple[NDArray, NDArray] | None) -> TrainSet | None:
        if validation is None:
            return None
        X, y = (
            check_windows(validation[0], window_bars=self.window_bars_),
            np.asarray(validation[1]),
        )
        if y.shape != (len(X),):
            raise BadInput(f"validation has {len(X)} windows and labels of shape {y.shape}")
        target = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if (self.classes_[target] != y).any():
            raise BadInput(
                "validation holds a label that training lacks", limit=f"one of {self.classes_}"
            )
        x, f = self._inputs(X)
        return TrainSet(
            x=x,
            features=f,
            target=torch.from_numpy(target.astype(np.int64)).to(self.device),
        )

    def _cuda_devices(self) -> list[int]:
        return [torch.cuda.current_device()] if self.device.startswith("cuda") else []
