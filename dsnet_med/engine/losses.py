"""Cross-entropy plus Dice, in every form that the words "CE 1.2 + Dice 0.8" have had.

The published configurations name a `DiceLoss` of MMSegmentation, https://github.com/open-mmlab/mmsegmentation,
which changed its meaning between versions. With p the probabilities, t the one-hot labels (B, K, H, W):

    softmax       1.0.0, and the published tables: softmax; per sample and class 1 - (2 sum pt + 1) / (sum p^2 +
                  sum t^2 + 1), background included. Ignored pixels leave the numerator only, and count as the
                  last class in the denominator
    sigmoid       1.1.2 to 1.2.2 by default: sigmoid, though the cross-entropy is a softmax; one Dice per sample
                  over all classes at once, 1 - 2 sum pt / (sum p^2 + sum t^2 + 0.002)
    softmax_flat  the same of a softmax (use_sigmoid=False)
    naive         1 - (2 sum pt + 1e-5) / (sum p + sum t + 1e-5) of a softmax, one per sample
    nnunet        the memory-efficient soft Dice of nnU-Net, https://github.com/MIC-DKFZ/nnUNet: softmax, sums
                  over the batch, mean over all classes but background, negated: -1 is best

In the three forms with one Dice per sample, ignored pixels have no label, and their p still counts. nnU-Net's
leaves them out. The cross-entropy divides by all pixels, ignored ones included, and with class weights too, as
MMSegmentation does (PyTorch's mean would divide by the sum of the weights).

Logits (B, K) are of presence (EncNet's head gives them): binary cross-entropy of which classes an image has, as
MMSegmentation takes it.

Departures from the published code: none in the function; everything is computed in float32 under autocast.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError, unknown
from dsnet_med.inference.slice_model import resized_to

SPATIAL = (2, 3)
SAMPLE = (1, 2, 3)
BATCH = (0, 2, 3)
PRESENCE_WEIGHT = 0.2  # of EncNet


class SegmentationLoss(nn.Module):
    """Weighted sum of cross-entropy and one of the `DICE` forms: logits and labels -> a scalar.

    Logits are (B, K, h, w), resized bilinearly to the labels' size, or a sequence of such, whose losses are
    summed (networks with auxiliary outputs); those of presence, (B, K), count `presence_weight`. Labels are
    (B, 1, H, W) or (B, H, W), class ids or `ignore_index`. `class_weights`, one for each class,
    multiply the pixels' cross-entropy.

    Raises InputError for an unknown Dice, for shapes that do not fit, and for ids that are no class (looked at
    on the CPU only: on a GPU the look would stall every step).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        dice: str = "softmax",
        ce_weight: float = 1.2,
        dice_weight: float = 0.8,
        ignore_index: int = 255,
        *,
        class_weights: Sequence[float] | None = None,
        presence_weight: float = PRESENCE_WEIGHT,
    ) -> None:
        super().__init__()
        if dice not in DICE:
            raise unknown("Dice", dice, DICE)
        self.dice, self.ignore_index = DICE[dice], ignore_index
        self.ce_weight, self.dice_weight, self.presence_weight = ce_weight, dice_weight, presence_weight
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        if not outputs:
            raise InputError("the loss got no logits, wanted a tensor or at least one in a sequence")
        return torch.stack([self._of_one(output, labels) for output in outputs]).sum()

    def _of_one(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.ndim == 2:
            return self.presence_weight * presence(logits, labels)
        labels = _checked(logits, labels, self.ignore_index)
        logits = resized_to(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.shape[1:])
        if self.class_weights is not None:  # kept there: a copy in every step would stall a GPU
            self.class_weights = self.class_weights.to(logits)
        entropy = cross_entropy(logits, labels, self.ignore_index, self.class_weights)
        return self.ce_weight * entropy + self.dice_weight * self.dice(logits, labels, self.ignore_index)


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, class_weights: Tensor | None = None
) -> Tensor:
    """Summed over the pixels that have a label (B, H, W), divided by the number of all pixels."""
    # Not reduction="sum", which a GPU adds up in another order each time.
    entropy = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_index, reduction="none")
    return entropy.sum() / labels.numel()


def presence(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, K) and which classes are in the labels (B, [1,] H, W)."""
    classes = torch.arange(logits.shape[1], device=labels.device)
    there = (labels.flatten(1).unsqueeze(2) == classes).any(1)
    return F.binary_cross_entropy_with_logits(logits.float(), there.float())


def dice_softmax(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """One Dice per sample and class, smoothed by 1; see the module."""
    p, t = logits.softmax(1), _one_hot(logits, labels, ignore_index)
    counts = t.sum(SPATIAL)  # (B, K)
    ignored = (labels == ignore_index).sum((1, 2))
    counts = torch.cat([counts[:, :-1], counts[:, -1:] + ignored[:, None]], 1)
    return (1 - (2 * (p * t).sum(SPATIAL) + 1) / (p.square().sum(SPATIAL) + counts + 1)).mean()


def dice_sigmoid(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """One Dice per sample, of a sigmoid; see the module."""
    return _squared(logits.sigmoid(), _one_hot(logits, labels, ignore_index))


def dice_softmax_flat(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """One Dice per sample, of a softmax; see the module."""
    return _squared(logits.softmax(1), _one_hot(logits, labels, ignore_index))


def dice_naive(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """One Dice per sample without squares; see the module."""
    p, t = logits.softmax(1), _one_hot(logits, labels, ignore_index)
    return (1 - (2 * (p * t).sum(SAMPLE) + 1e-5) / (p.sum(SAMPLE) + t.sum(SAMPLE) + 1e-5)).mean()


def dice_nnunet(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Minus one Dice per class of the whole batch, without background; see the module."""
    p, t = logits.softmax(1)[:, 1:], _one_hot(logits, labels, ignore_index)[:, 1:]
    p = p * (labels != ignore_index).unsqueeze(1)
    return -((2 * (p * t).sum(BATCH) + 1e-5) / (p.sum(BATCH) + t.sum(BATCH) + 1e-5)).mean()


def _squared(p: Tensor, t: Tensor) -> Tensor:
    return (1 - 2 * (p * t).sum(SAMPLE) / (p.square().sum(SAMPLE) + t.sum(SAMPLE) + 2e-3)).mean()


def _one_hot(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """(B, K, H, W), all zero where the label is ignored; floats, which multiply faster than booleans."""
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    return ((labels.unsqueeze(1) == classes) & (classes != ignore_index)).to(logits.dtype)


def _checked(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """The labels as int64 (B, H, W)."""
    if labels.ndim == 4 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        raise InputError(
            f"the loss got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}, wanted (B, K, h, w) "
            "and (B, 1, H, W) or (B, H, W)"
        )
    labels = labels.long()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_ids(labels, logits.shape[1], ignore_index)
    return labels


def _check_ids(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if wrong.any():
        raise InputError(
            f"the loss got label {int(labels[wrong][0])}, wanted 0 to {num_classes - 1}, or {ignore_index} for "
            "pixels to ignore: check num_classes and the recipe's label map"
        )


Dice = Callable[[Tensor, Tensor, int], Tensor]

DICE: dict[str, Dice] = {
    "softmax": dice_softmax,
    "sigmoid": dice_sigmoid,
    "softmax_flat": dice_softmax_flat,
    "naive": dice_naive,
    "nnunet": dice_nnunet,
}
