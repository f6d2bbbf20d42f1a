"""The training objective of a task as a torch module: what PyTorch trains, and what other engines trace."""

# B = batch, C = outputs of a row

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss, l1_loss, mse_loss

from compiler.plan import Train
from compiler.recipe import CrossEntropy, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from runtimes import tasks


class Objective(nn.Module):
    """A model with the loss of its task. Dropout and label smoothing are there in training mode only."""

    def __init__(self, step: Train, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss, self.label_smoothing = step.loss, step.label_smoothing
        head = tasks.module_of(step.task).head(step.task)
        self.scale, self.shift = head.scale, head.shift

    def forward(self, inputs: Mapping[str, Tensor], targets_B: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each row [B], and the outputs [B, C] in the targets' unit; float32."""
        raw_BC = self.model(**inputs).logits.float()
        smoothing = self.label_smoothing if self.training else 0.0
        if (self.scale, self.shift) == (1.0, 0.0):
            return row_losses(self.loss, raw_BC, targets_B, smoothing), raw_BC
        standard_B = (targets_B - self.shift) / self.scale
        return row_losses(self.loss, raw_BC, standard_B, smoothing), raw_BC * self.scale + self.shift


def row_losses(loss: Loss, outputs_BC: Tensor, targets_B: Tensor, label_smoothing: float) -> Tensor:
    """[B] the loss of each row: cross-entropy in nats, or the difference of its first output from the target."""
    match loss:
        case CrossEntropy():
            return cross_entropy(outputs_BC, targets_B, reduction="none", label_smoothing=label_smoothing)
        case MeanSquaredError():
            return mse_loss(outputs_BC[:, 0], targets_B, reduction="none")
        case MeanAbsoluteError():
            return l1_loss(outputs_BC[:, 0], targets_B, reduction="none")
        case Huber(delta=delta):
            return huber_loss(outputs_BC[:, 0], targets_B, reduction="none", delta=delta)
        case _:
            assert_never(loss)
