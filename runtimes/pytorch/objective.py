"""The training objective of a task as a torch module: what PyTorch trains, and what other engines trace."""

# B = batch, T = positions of a row, C = outputs of a position, V = vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, huber_loss, l1_loss, mse_loss

from compiler.plan import Train
from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from runtimes import tasks
from runtimes.pytorch.embedding_noise import EmbeddingNoise
from runtimes.pytorch.heads import of_outputs
from runtimes.rows.features import IGNORED
from runtimes.rows.packing import SEGMENTS
from runtimes.rows.readings import LEAST, sample
from runtimes.rows.spans import FIRST_TOKEN, LAST_TOKEN, ONE_TOKEN
from runtimes.tasks.interface import Reading

_LEAST = 1e-12  # of 1 - p: at zero, a power below one has no gradient


class Objective(nn.Module):
    """A model with the loss of its task. Dropout, label smoothing and noise are there in training mode only."""

    def __init__(self, step: Train, model: nn.Module, noise: EmbeddingNoise | None = None) -> None:
        super().__init__()
        self.model = model
        self.noise = noise
        self.loss, self.label_smoothing = step.loss, step.label_smoothing
        self.head = tasks.module_of(step.task).head(step.task)

    def forward(self, inputs: Mapping[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each target, [B], [B, T] or [B, C], and the outputs [..., C] in the targets' unit; float32.

        While it trains, the outputs are the raw ones: nobody reads them.
        """
        if self.noise is not None:
            self.noise.measure(inputs if self.training else None)
        raw = results_of(self.model(**attended(inputs), **self.head.arguments), self.head.results).float()
        smoothing = self.label_smoothing if self.training else 0.0
        if {*self.head.scale} != {1.0} or any(self.head.shift):
            scale, shift = (of_outputs(numbers, raw, -1) for numbers in (self.head.scale, self.head.shift))
            return target_losses(self.loss, raw, (targets - shift) / scale, smoothing), raw * scale + shift
        marked = self.head.reading == "spans"
        losses = span_losses(raw, targets, smoothing) if marked else target_losses(self.loss, raw, targets, smoothing)
        return losses, raw if self.training else read_outputs(self.head.reading, raw, targets)


def results_of(found: Any, names: Sequence[str]) -> Tensor:
    """The outputs of a model, [..., C], of what it gives back; several results [...] are stacked."""
    if len(names) == 1:
        single: Tensor = getattr(found, names[0])
        return single
    return torch.stack([getattr(found, name) for name in names], dim=-1)


def attended(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A decoder's inputs: of packed rows, the mask [B, 1, T, T] by which a token sees its own row up to itself.

    A mask of one number a token would let rows see each other, restarted positions or not. Padding sees padding.
    """
    if SEGMENTS not in inputs:
        return inputs
    segments_BT = inputs[SEGMENTS]
    places_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    before_TT = places_T[None, :] <= places_T[:, None]
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    given = {name: value for name, value in inputs.items() if name != SEGMENTS}
    return {**given, "attention_mask": (same_BTT & before_TT)[:, None]}


def target_losses(loss: Loss, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """The loss of each target: cross-entropy in nats, or the difference of a position's first output from it.

    `outputs` [..., C], `targets` [...]; where the target is IGNORED, cross-entropy is zero. Of label
    sets each output has a target, 0 or 1, and of several numbers each its own: [..., C].
    """
    match loss:
        case CrossEntropy() if targets.ndim == 1:
            return cross_entropy(outputs, targets, reduction="none", label_smoothing=label_smoothing)
        case CrossEntropy():
            return position_losses(outputs, targets, label_smoothing)
        case BinaryCrossEntropy():
            return binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        case Focal(gamma=gamma):
            sets = targets.is_floating_point()
            plain = target_losses(BinaryCrossEntropy() if sets else CrossEntropy(), outputs, targets, label_smoothing)
            return plain * (-torch.expm1(-plain)).clamp_min(_LEAST) ** gamma
        case MeanSquaredError():
            return mse_loss(_shaped(outputs, targets), targets, reduction="none")
        case MeanAbsoluteError():
            return l1_loss(_shaped(outputs, targets), targets, reduction="none")
        case Huber(delta=delta):
            return huber_loss(_shaped(outputs, targets), targets, reduction="none", delta=delta)
        case _:
            assert_never(loss)


def _shaped(outputs: Tensor, targets: Tensor) -> Tensor:
    """What is answered, in the targets' shape: each output, or the only one of a position."""
    return outputs if targets.ndim == outputs.ndim else outputs[..., 0]


def position_losses(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """[B, T] cross-entropy in nats, from logits [B, T, C].

    torch's own wants the classes in front of the positions, for which large vocabularies would be copied.
    """
    answered = targets != IGNORED
    sums = logits.logsumexp(dim=-1)
    chosen = logits.gather(-1, torch.where(answered, targets, 0)[..., None])[..., 0]
    losses = sums - chosen
    if label_smoothing:
        losses = (1 - label_smoothing) * losses + label_smoothing * (sums - logits.mean(dim=-1))
    return torch.where(answered, losses, 0.0)


def span_losses(logits_BTC: Tensor, targets_BT: Tensor, label_smoothing: float) -> Tensor:
    """[B, T] at the first token of each answer the mean cross-entropy in nats of its first token and of its last."""
    shares_BTC = span_shares(logits_BTC, targets_BT)
    possible, both = targets_BT != IGNORED, targets_BT == ONE_TOKEN
    first, last = (targets_BT == FIRST_TOKEN) | both, (targets_BT == LAST_TOKEN) | both
    losses_B = -0.5 * (first * shares_BTC[..., 0] + last * shares_BTC[..., 1]).sum(dim=1)
    if label_smoothing:
        even_B = -0.5 * (possible * shares_BTC.sum(dim=-1)).sum(dim=1) / possible.sum(dim=1)
        losses_B = (1 - label_smoothing) * losses_B + label_smoothing * even_B
    return torch.where(first, losses_B[:, None], 0.0)


def span_shares(logits_BTC: Tensor, targets_BT: Tensor) -> Tensor:
    """[B, T, C] log-probabilities over the tokens of each row that its answer can be of; zero for others."""
    possible_BT1 = (targets_BT != IGNORED)[..., None]
    masked_BTC = torch.where(possible_BT1, logits_BTC, LEAST)
    return torch.where(possible_BT1, masked_BTC - masked_BTC.logsumexp(dim=1, keepdim=True), 0.0)


def read_outputs(reading: Reading, logits: Tensor, targets: Tensor) -> Tensor:
    """What is kept of logits [..., V], on their device: as runtimes.rows.readings has it."""
    if reading == "logits":
        return logits
    if reading == "spans":
        places = (torch.arange(targets.shape[1], device=targets.device) > 0).long()
        placed = torch.where(targets != IGNORED, places, -1)[..., None].to(logits.dtype)
        return torch.cat([span_shares(logits, targets), placed], dim=-1)
    answered = targets != IGNORED
    best = logits.amax(dim=-1, keepdim=True)
    places = torch.arange(logits.shape[-1], device=logits.device)
    others = torch.where(places == logits.argmax(dim=-1, keepdim=True), -torch.inf, logits)
    second = others.amax(dim=-1, keepdim=True)
    chosen = logits.gather(-1, torch.where(answered, targets, 0)[..., None])
    sampled = logits[..., torch.from_numpy(sample(logits.shape[-1])).to(logits.device)]
    figures = torch.cat([chosen, best, second, sampled], dim=-1) - logits.logsumexp(dim=-1, keepdim=True)
    return torch.cat([figures[..., :1] * answered[..., None], figures[..., 1:]], dim=-1)
