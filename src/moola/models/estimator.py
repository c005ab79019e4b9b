"""The scikit-learn side of a torch classifier of OHLC windows: fit, predict, save, load.

One code path takes windows in price units to logits, in training and in serving alike:
check, normalise, compute the 20 features, standardise them by the train part's figures, run the net.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional

from moola.data.features import features20
from moola.data.windows import check_windows, normalise
from moola.errors import BadInput, ProofError
from moola.models.callbacks import Callback, FitState
from moola.models.checkpoint import read_checkpoint, save_checkpoint

_PREDICT_BATCH = 1024


class TorchWindowClassifier(ClassifierMixin, BaseEstimator):
    """Base of the torch classifiers.

    Parameters
    ----------
    seed
        Seeds initialisation, batch order and dropout; equal seeds give equal weights on one device.
    n_epochs, batch_size, learning_rate, weight_decay
        AdamW over shuffled batches.
    early_stopping_patience
        Epochs without a better validation loss before training ends; the best epoch's weights are
        kept. Needs validation data, given to ``fit`` or cut off by `val_split`.
    val_split
        Share of the training windows, the latest ones, held back for early stopping; 0: none.
    class_weight
        None or ``"balanced"`` (weights n / (K * n_k) in the loss).
    use_amp
        bfloat16 autocast, on CUDA only.
    device
        ``cpu`` or ``cuda``.

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
    """

    model_name: ClassVar[str]
    seed: int
    n_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    early_stopping_patience: int
    val_split: float
    class_weight: str | None
    use_amp: bool
    device: str

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

        Raises
        ------
        BadInput
            If shapes, prices or labels cannot be used; the estimator is unchanged.
        ProofError
            If the loss becomes NaN, or a callback finds that the run breaks its word.
        """
        X, y = check_windows(X), np.asarray(y)
        classes, target = self._check_labels(X, y)
        if validation is None and self.val_split > 0:
            held = max(1, round(self.val_split * len(X)))
            X, validation, target = X[:-held], (X[-held:], y[-held:]), target[:-held]
        features = features20(X)
        mean, std = features.mean(axis=0), features.std(axis=0)
        self.classes_ = classes
        self.window_bars_ = int(X.shape[1])
        self.n_features_in_ = 4
        self.feature_mean_ = mean
        self.feature_scale_ = np.where(std > 1e-6, std, 1.0).astype(np.float32)
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(self.seed)
            self.net_ = self.build_net(len(classes)).to(self.device)
            self._train(X, target, validation, callbacks)
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
            model = cls(**{**config["params"], "device": device})
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

    def _check_labels(self, X: NDArray, y: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
        if y.shape != (len(X),):
            raise BadInput(f"y has shape {y.shape}", limit=f"({len(X)},), one label a window")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise BadInput("y holds NaN or infinity")
        classes, target = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise BadInput(f"y holds the single class {classes[0]!r}", limit="at least 2 classes")
        return classes, target.astype(np.int64)

    def _inputs(self, X: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = (features20(X) - self.feature_mean_) / self.feature_scale_
        return (
            torch.from_numpy(normalise(X)).to(self.device),
            torch.from_numpy(scaled.astype(np.float32)).to(self.device),
        )

    def _train(
        self,
        X: NDArray[np.float32],
        target: NDArray[np.int64],
        validation: tuple[NDArray, NDArray] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        x, f = self._inputs(X)
        t = torch.from_numpy(target).to(self.device)
        held = self._validation_tensors(validation)
        optimizer = torch.optim.AdamW(
            self.net_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        state = FitState(net=self.net_, optimizer=optimizer, num_epochs=self.n_epochs)
        weight = self._class_weights(target)
        order = torch.Generator().manual_seed(self.seed)
        best_loss, best_weights, since_best = math.inf, None, 0
        for callback in callbacks:
            callback.on_fit_begin(state)
        for state.epoch in range(self.n_epochs):
            self.net_.train()
            for callback in callbacks:
                callback.on_epoch_begin(state)
            row = {"epoch": state.epoch, "learning_rate": optimizer.param_groups[0]["lr"]}
            row |= self._train_epoch(x, f, t, weight, order, state, callbacks)
            if held is not None:
                row |= self._evaluate(*held, weight)
            state.history.append(row)
            for callback in callbacks:
                callback.on_epoch_end(state)
            if held is None or state.epoch < state.first_epoch_to_keep:
                continue
            if row["val_loss"] < best_loss:
                best_loss, since_best = row["val_loss"], 0
                best_weights = copy.deepcopy(self.net_.state_dict())
                state.kept_epoch = state.epoch
            elif (since_best := since_best + 1) >= self.early_stopping_patience:
                break
        if best_weights is not None:
            self.net_.load_state_dict(best_weights)
        else:
            state.kept_epoch = state.epoch
        self.net_.eval()
        self.history_, self.kept_epoch_ = state.history, state.kept_epoch
        for callback in callbacks:
            callback.on_fit_end(state)

    def _train_epoch(
        self,
        x: torch.Tensor,
        f: torch.Tensor,
        t: torch.Tensor,
        weight: torch.Tensor | None,
        order: torch.Generator,
        state: FitState,
        callbacks: Sequence[Callback],
    ) -> dict[str, float]:
        total = torch.zeros((), device=x.device)
        correct = torch.zeros((), device=x.device)
        for rows in torch.randperm(len(x), generator=order).split(self.batch_size):
            rows = rows.to(x.device)
            with torch.autocast("cuda", torch.bfloat16, enabled=self.use_amp and x.is_cuda):
                logits = self.net_(x[rows], f[rows])
                loss = functional.cross_entropy(logits.float(), t[rows], weight=weight)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for callback in callbacks:
                callback.on_gradients(state)
            nn.utils.clip_grad_norm_(self.net_.parameters(), 1.0)
            state.optimizer.step()
            total += loss.detach() * len(rows)
            correct += (logits.argmax(1) == t[rows]).sum()
        loss_value = float(total) / len(x)
        if not math.isfinite(loss_value):
            raise ProofError(
                f"the training loss is {loss_value} in epoch {state.epoch + 1}",
                remedy=f"Lower the learning rate ({self.learning_rate:g})",
            )
        return {"train_loss": loss_value, "train_accuracy": float(correct) / len(x)}

    @torch.inference_mode()
    def _evaluate(
        self, x: torch.Tensor, f: torch.Tensor, t: torch.Tensor, weight: torch.Tensor | None
    ) -> dict[str, float]:
        self.net_.eval()
        logits = torch.cat(
            [
                self.net_(x[i : i + _PREDICT_BATCH], f[i : i + _PREDICT_BATCH]).float()
                for i in range(0, len(x), _PREDICT_BATCH)
            ]
        )
        return {
            "val_loss": float(functional.cross_entropy(logits, t, weight=weight)),
            "val_accuracy": float((logits.argmax(1) == t).float().mean()),
        }

    def _validation_tensors(
        self, validation: tuple[NDArray, NDArray] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        if validation is None:
            return None
        X, y = check_windows(validation[0], window_bars=self.window_bars_), np.asarray(validation[1])
        target = np.searchsorted(self.classes_, y)
        if (self.classes_[np.minimum(target, len(self.classes_) - 1)] != y).any():
            raise BadInput("validation holds a label that training lacks", limit=str(self.classes_))
        return *self._inputs(X), torch.from_numpy(target.astype(np.int64)).to(self.device)

    def _class_weights(self, target: NDArray[np.int64]) -> torch.Tensor | None:
        if self.class_weight is None:
            return None
        if self.class_weight != "balanced":
            raise BadInput(f"class_weight is {self.class_weight!r}", limit="None or 'balanced'")
        counts = np.bincount(target)
        return torch.tensor(len(target) / (len(counts) * counts), dtype=torch.float32).to(self.device)

    def _cuda_devices(self) -> list[int]:
        return [torch.cuda.current_device()] if self.device.startswith("cuda") else []
