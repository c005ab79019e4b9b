"""The training loop: epochs of shuffled batches, early stopping, a state that can be resumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from moola.errors import ProofError
from moola.models.fitting.batches import EncoderCache, TrainSet, TrainSource, encoder_is_frozen
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.early_stopping import EarlyStopping
from moola.models.fitting.losses import ClassificationLoss
from moola.models.fitting.resume import StateFile, read_state, write_state
from moola.models.weights.net_tensors import restore_net

MAX_GRADIENT_NORM = 1.0
_EVALUATE_BATCH = 1024
_VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What the loop needs to know of an estimator."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    use_amp: bool
    cache_frozen: bool
    seed: int


class FitLoop:
    """Train a net on a source of windows.

    Parameters
    ----------
    net
        Takes windows and features; with ``encoder`` and ``forward_head`` its frozen epochs run on
        the encoder's outputs, computed once.
    source
        Training windows.
    validation
        For early stopping; None trains to the end.
    loss
        Of training; validation is measured by its class-weighted cross-entropy.
    options
        What the loop needs to know of the estimator.
    callbacks
        Called in this order.
    """

    def __init__(
        self,
        net: nn.Module,
        source: TrainSource,
        validation: TrainSet | None,
        *,
        loss: ClassificationLoss,
        options: LoopOptions,
        callbacks: Sequence[Callback] = (),
    ):
        self.net, self.source, self.validation = net, source, validation
        self.loss, self.options, self.callbacks = loss, options, callbacks
        self.cache = EncoderCache(net, enabled=options.cache_frozen)
        self._validation_loss = ClassificationLoss(loss.weight)
        self._order = torch.Generator().manual_seed(options.seed)

    def run(self, state_file: StateFile | None = None) -> FitState:
        """Train; the net holds the kept weights afterwards.

        Parameters
        ----------
        state_file
            Keeps the state after every epoch; None keeps none.

        Returns
        -------
        FitState
            As the last epoch left it.

        Raises
        ------
        ProofError
            If a loss or a gradient becomes NaN, or a callback finds that the run breaks its word.
        """
        options = self.options
        optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        state = FitState(net=self.net, optimizer=optimizer, num_epochs=options.num_epochs)
        for callback in self.callbacks:
            callback.on_fit_begin(state)
        stopping = EarlyStopping()
        if state_file is not None:
            resumed = read_state(state_file, state, order=self._order, callbacks=self.callbacks)
            stopping = resumed or stopping
        first = state.resumed_at or 0
        state.epoch = max(first - 1, 0)
        for state.epoch in range(first, first if stopping.stopped else options.num_epochs):
            self._epoch(state)
            self._stop_early(state, stopping)
            if state_file is not None:
                write_state(
                    state_file, state, stopping, order=self._order, callbacks=self.callbacks
                )
            if stopping.stopped:
                break
        return self._finish(state, stopping)

    def _epoch(self, state: FitState) -> None:
        self.net.train()
        for callback in self.callbacks:
            callback.on_epoch_begin(state)
        self.cache.begin_epoch()
        row = {"epoch": state.epoch, "learning_rate": state.optimizer.param_groups[0]["lr"]}
        row |= self._train_epoch(state)
        if self.validation is not None:
            row |= self._evaluate(self.validation)
        self._require_finite(row, state.epoch)
        state.history.append(row)
        for callback in self.callbacks:
            callback.on_epoch_end(state)

    def _train_epoch(self, state: FitState) -> dict[str, float]:
        number = self.source.number(state.epoch, frozen=encoder_is_frozen(self.net))
        data = self.source.draw(number)
        device = data.x.device
        use_amp = self.options.use_amp and device.type == "cuda"
        states = self.cache.states(number, data.x, use_amp=use_amp)
        total, correct, gradient = torch.zeros(3, device=device).unbind()
        order = torch.randperm(len(data), generator=self._order).to(device)
        for rows in order.split(self.options.batch_size):
            for callback in self.callbacks:
                callback.on_batch_begin(state)
            with torch.autocast("cuda", torch.bfloat16, enabled=use_amp):
                if states is None:
                    logits = self.net(data.x[rows], data.features[rows])
                else:
                    logits = self.net.forward_head(states[rows], data.features[rows])  # type: ignore[operator]
            loss = self.loss(logits.float(), *data.labels(rows))
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for callback in self.callbacks:
                callback.on_gradients(state)
            gradient = gradient + nn.utils.clip_grad_norm_(self.net.parameters(), MAX_GRADIENT_NORM)
            state.optimizer.step()
            total = total + loss.detach() * len(rows)
            correct = correct + (logits.argmax(1) == data.target[rows]).sum()
        loss_value, right, norm = torch.stack([total, correct, gradient]).tolist()
        if not math.isfinite(norm):
            loss_value = math.nan  # the step that this gradient made has spoilt the weights
        return {"train_loss": loss_value / len(data), "train_accuracy": right / len(data)}

    @torch.no_grad()
    def _evaluate(self, data: TrainSet) -> dict[str, float]:
        self.net.eval()
        states = self.cache.states(_VALIDATION, data.x, use_amp=False)
        logits = []
        for begin in range(0, len(data), _EVALUATE_BATCH):
            part = slice(begin, begin + _EVALUATE_BATCH)
            if states is None:
                logits.append(self.net(data.x[part], data.features[part]).float())
            else:
                logits.append(self.net.forward_head(states[part], data.features[part]).float())  # type: ignore[operator]
        answer = torch.cat(logits)
        return {
            "val_loss": float(self._validation_loss(answer, data.target)),
            "val_accuracy": float((answer.argmax(1) == data.target).float().mean()),
        }

    def _require_finite(self, row: dict[str, float], epoch: int) -> None:
        for name, words in (("train_loss", "training loss"), ("val_loss", "validation loss")):
            if not math.isfinite(row.get(name, 0.0)):
                raise ProofError(
                    f"the {words} is not a number in epoch {epoch + 1}",
                    limit="a finite loss and finite gradients",
                    remedy=f"Lower the learning rate ({self.options.learning_rate:g})",
                )

    def _stop_early(self, state: FitState, stopping: EarlyStopping) -> None:
        if self.validation is None or state.epoch < state.first_epoch_to_keep:
            return
        stopping.note(state.history[-1]["val_loss"], state, patience=self.options.patience)

    def _finish(self, state: FitState, stopping: EarlyStopping) -> FitState:
        if stopping.best_weights is not None:
            restore_net(self.net, stopping.best_weights)
        else:
            state.kept_epoch = state.epoch
        self.net.eval()
        for callback in self.callbacks:
            callback.on_fit_end(state)
        return state
