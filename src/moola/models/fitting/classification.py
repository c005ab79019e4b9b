"""Classification as an objective of the loop: shuffled batches, a loss, validation windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from moola.models.fitting.batches import EncoderCache, TrainSet, TrainSource, encoder_is_frozen
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.loop import MAX_GRADIENT_NORM
from moola.models.fitting.losses import ClassificationLoss

_EVALUATE_BATCH = 1024
_VALIDATION = "validation"


class Classification:
    """Train a net to classify windows.

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
    batch_size
        Windows a step.
    use_amp
        Whether to train in bfloat16 on a GPU.
    cache_frozen
        Whether a frozen encoder's outputs are computed once.
    seed
        Seed of the batches' order.
    """

    monitor = "val_loss"

    def __init__(
        self,
        net: nn.Module,
        source: TrainSource,
        validation: TrainSet | None,
        *,
        loss: ClassificationLoss,
        batch_size: int,
        use_amp: bool,
        cache_frozen: bool,
        seed: int,
    ):
        self.net, self.source, self.validation, self.loss = net, source, validation, loss
        self.batch_size, self.use_amp = batch_size, use_amp
        self.order = torch.Generator().manual_seed(seed)
        self.cache = EncoderCache(net, enabled=cache_frozen)
        self._validation_loss = ClassificationLoss(loss.weight)

    def epoch(self, state: FitState, callbacks: Sequence[Callback]) -> dict[str, float]:
        """Train one epoch; measure the validation windows where there are any."""
        self.cache.begin_epoch()
        row = {"epoch": state.epoch, "learning_rate": state.optimizer.param_groups[0]["lr"]}
        row |= self._train(state, callbacks)
        if self.validation is not None:
            row |= self._evaluate(self.validation)
        return row

    def _train(self, state: FitState, callbacks: Sequence[Callback]) -> dict[str, float]:
        number = self.source.number(state.epoch, frozen=encoder_is_frozen(self.net))
        data = self.source.draw(number)
        device = data.x.device
        use_amp = self.use_amp and device.type == "cuda"
        states = self.cache.states(number, data.x, use_amp=use_amp)
        total, correct, gradient = torch.zeros(3, device=device).unbind()
        order = torch.randperm(len(data), generator=self.order).to(device)
        for rows in order.split(self.batch_size):
            for callback in callbacks:
                callback.on_batch_begin(state)
            with torch.autocast("cuda", torch.bfloat16, enabled=use_amp):
                if states is None:
                    logits = self.net(data.x[rows], data.features[rows])
                else:
                    logits = self.net.forward_head(states[rows], data.features[rows])  # type: ignore[operator]
            loss = self.loss(logits.float(), *data.labels(rows))
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for callback in callbacks:
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
