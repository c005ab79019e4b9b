"""Pretraining of the BiLSTM encoder on three tasks a step that bars pose of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from moola.config.pretraining import MultitaskConfig
from moola.data.windows import normalise
from moola.errors import ConfigError
from moola.models.multitask_bilstm import MultiTaskBiLSTM
from moola.pretraining.corpus import Corpus
from moola.pretraining.distributed import Share
from moola.pretraining.objective import CorpusObjective
from moola.pretraining.session import PretrainResult, Session, run_session
from moola.pretraining.targets import IGNORED, NUM_CLASSES, bar_targets

ENCODER_KIND = "multitask_bilstm"
TASKS = ("direction", "swing", "candle")
_EVALUATE_BATCH = 512


def build_multitask(**shape: Any) -> MultiTaskBiLSTM:
    """Return a fresh model of a shape, with heads for the three tasks."""
    return MultiTaskBiLSTM(num_classes=NUM_CLASSES, **shape)


def pretrain_multitask(
    X_NTC: NDArray, config: MultitaskConfig, session: Session
) -> PretrainResult[MultiTaskBiLSTM]:
    """Train on windows in price units, in time order.

    Raises what ``run_session`` raises, and ConfigError if no bar would have a swing target.
    """
    T, horizon = X_NTC.shape[1], config.horizon_bars
    if 2 * horizon + 1 > T:
        raise ConfigError(
            f"horizon_bars is {horizon} and windows have {T} bars",
            limit=f"at most {(T - 1) // 2}, so that a bar has {horizon} on either side",
            remedy="Lower horizon_bars or build longer windows",
        )
    corpus = Corpus(X_NTC, device=session.device, max_resident_mb=config.max_resident_mb)

    def make(train: NDArray[np.int64], val: NDArray[np.int64]) -> _Multitask:
        model = build_multitask(**config.encoder_shape())
        return _Multitask(model.to(session.device), config, corpus, train, val, share=session.share)

    return run_session(make, X_NTC, config, session)


class _Multitask(CorpusObjective[MultiTaskBiLSTM, MultitaskConfig]):
    """The objective: cross-entropies of the three tasks, weighted."""

    parts = ("loss", *(f"{task}_loss" for task in TASKS))
    monitor = "val_loss"

    def losses(self, draw: torch.Generator, share: Share) -> Iterator[tuple[torch.Tensor, int]]:
        for batch in self._batches(draw, share):
            yield self._loss(batch.x, share), batch.num_windows

    def _loss(self, x: torch.Tensor, share: Share) -> torch.Tensor:
        """Return the losses; here, so that no activation outlives the backward pass."""
        with self._autocast():
            logits = self._called(x)
        targets = bar_targets(x, self.config.horizon_bars)
        sums = torch.stack([_summed(logits[t].float(), targets[t]) for t in TASKS])
        loss, count = share.total(sums).unbind(dim=1)
        return self._weighted(loss / count.clamp_min(1))

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        sums = torch.zeros(len(TASKS), 2, device=self._x_val.device)
        right = torch.zeros(len(TASKS), device=self._x_val.device)
        for x in self._x_val.split(_EVALUATE_BATCH):
            logits, targets = self.model(x), bar_targets(x, self.config.horizon_bars)
            sums += torch.stack([_summed(logits[t], targets[t]) for t in TASKS])
            right += torch.stack([(logits[t].argmax(2) == targets[t]).sum() for t in TASKS])
        losses = self._weighted(sums[:, 0] / sums[:, 1].clamp_min(1)).tolist()
        hits = (right / sums[:, 1].clamp_min(1)).tolist()
        figures = {f"val_{p}": v for p, v in zip(self.parts, losses, strict=True)}
        return figures | {f"val_{t}_accuracy": v for t, v in zip(TASKS, hits, strict=True)}

    def _weighted(self, losses: torch.Tensor) -> torch.Tensor:
        weights = [getattr(self.config, f"{task}_weight") for task in TASKS]
        loss = sum(w * part for w, part in zip(weights, losses, strict=True))
        return torch.cat([torch.as_tensor(loss).reshape(1), losses])


def _summed(logits_NTK: torch.Tensor, target_NT: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy and the number of steps it is summed over."""
    loss = functional.cross_entropy(
        logits_NTK.flatten(0, 1), target_NT.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return torch.stack([loss, (target_NT != IGNORED).sum().to(loss.dtype)])


@torch.inference_mode()
def held_out_answers(
    model: MultiTaskBiLSTM, X_NTC: NDArray, horizon_bars: int
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return, by task, targets (n,) and probabilities (n, K) of all bars that have a target.

    `X_NTC` are windows in price units; the model is on the CPU and in evaluation mode.
    """
    targets: dict[str, list[torch.Tensor]] = {task: [] for task in TASKS}
    answers: dict[str, list[torch.Tensor]] = {task: [] for task in TASKS}
    for x in torch.from_numpy(normalise(np.asarray(X_NTC))).split(_EVALUATE_BATCH):
        logits, wanted = model(x), bar_targets(x, horizon_bars)
        for task in TASKS:
            has_target = wanted[task] != IGNORED
            targets[task].append(wanted[task][has_target])
            answers[task].append(logits[task][has_target].double().softmax(dim=1))
    return {t: (torch.cat(targets[t]).numpy(), torch.cat(answers[t]).numpy()) for t in TASKS}


@torch.inference_mode()
def task_losses(
    model: MultiTaskBiLSTM, X_NTC: NDArray, options: Mapping[str, Any]
) -> dict[str, NDArray[np.float64]]:
    """Return each window's weighted cross-entropy over the three tasks, shape (n,).

    ``model``; ``baseline``: the constant that answers the class shares of these very windows, the
    best constant in hindsight.

    Parameters
    ----------
    model
        On the CPU, in evaluation mode.
    X_NTC
        Windows in price units, shape (n, T, 4).
    options
        Of its pretraining: ``horizon_bars`` and the weights of the tasks.
    """
    x_all = torch.from_numpy(normalise(np.asarray(X_NTC)))
    targets = bar_targets(x_all, options["horizon_bars"])
    losses = {name: torch.zeros(len(x_all), dtype=torch.float64) for name in ("model", "baseline")}
    logits = [model(x) for x in x_all.split(_EVALUATE_BATCH)]
    for task in TASKS:
        wanted = targets[task]
        answered = torch.cat([part[task] for part in logits])
        counts = wanted[wanted != IGNORED].bincount(minlength=answered.shape[2]).double()
        constant = (counts / counts.sum()).log().clamp_min(-50).expand(*answered.shape)
        for name, answers in (("model", answered.double()), ("baseline", constant)):
            losses[name] += options[f"{task}_weight"] * _mean_by_window(answers, wanted)
    return {name: values.numpy() for name, values in losses.items()}


def _mean_by_window(logits_NTK: torch.Tensor, target_NT: torch.Tensor) -> torch.Tensor:
    loss = functional.cross_entropy(
        logits_NTK.transpose(1, 2), target_NT, ignore_index=IGNORED, reduction="none"
    )
    return loss.sum(dim=1) / (target_NT != IGNORED).sum(dim=1).clamp_min(1)


def majority_accuracy(x_NTC: torch.Tensor, horizon_bars: int) -> Mapping[str, float]:
    """Return, by task, the share of the commonest class: what a constant answer scores."""
    targets = bar_targets(x_NTC, horizon_bars)
    shares = {}
    for task, target in targets.items():
        counts = target[target != IGNORED].bincount()
        shares[task] = float(counts.max() / counts.sum())
    return shares
