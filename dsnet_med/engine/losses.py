"""Cross-entropy plus Dice, in every form that the words "CE 1.2 + Dice 0.8" have had; for slices and volumes.

The published configurations name a `DiceLoss` of MMSegmentation, https://github.com/open-mmlab/mmsegmentation,
which changed its meaning between versions. With p the probabilities, t the one-hot labels (B, K, *S):

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
MMSegmentation does (PyTorch's mean would divide by the sum of the weights). With `masked`, ignored pixels count
nowhere: p and t are 0 there, and the cross-entropy divides by the others.

Regions, which may overlap, are decided one by one: p is the sigmoid in every form, t their masks, of which none
is background, and the cross-entropy the mean of the regions' binary ones.

Logits (B, K) are of presence (EncNet's head gives them): binary cross-entropy of which classes an image has, as
MMSegmentation takes it.

Departures from the published code: none in the function; everything is computed in float32 under autocast.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsnet_med.errors import InputError, unknown
from dsnet_med.inference.slice_model import resized_to
from dsnet_med.regions import code_table, parse

PRESENCE_WEIGHT = 0.2  # of EncNet


class SegmentationLoss(nn.Module):
    """Weighted sum of cross-entropy and one of the `DICE` forms: logits and labels -> a scalar.

    Logits are (B, K, *s), resized linearly to the labels' size, or a sequence of such, whose losses are summed
    (networks with auxiliary outputs); those of presence, (B, K), count `presence_weight`. Labels are (B, 1, *S)
    or (B, *S), class ids or `ignore_index`. `class_weights`, one for each class, multiply the pixels'
    cross-entropy.

    With `regions`, `{name: {of: [label values], value: number}}`, K counts these. With `masked`, pixels of
    `ignore_index` count nowhere. With `deep_supervision` a sequence is of the same map, finest first, each
    coarser than the one before: labels are brought to its size (nearest neighbour), and it weighs half as much,
    of weights that sum to 1, as in nnU-Net.

    Raises InputError for an unknown Dice, for shapes that do not fit, and for ids that are no class (looked at
    on the CPU only: on a GPU the look would stall every step).
    """

    class_weights: Tensor | None
    table: Tensor | None

    def __init__(
        self,
        dice: str = "softmax",
        ce_weight: float = 1.2,
        dice_weight: float = 0.8,
        ignore_index: int = 255,
        *,
        class_weights: Sequence[float] | None = None,
        presence_weight: float = PRESENCE_WEIGHT,
        regions: Mapping[str, Any] | None = None,
        masked: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if dice not in DICE:
            raise unknown("Dice", dice, DICE)
        if regions and class_weights is not None:
            raise InputError("got class_weights for regions, which have no classes: leave them out")
        self.activation, self.dice = DICE[dice]
        self.ignore_index, self.masked, self.deep_supervision = ignore_index, masked, deep_supervision
        self.ce_weight, self.dice_weight, self.presence_weight = ce_weight, dice_weight, presence_weight
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        table = torch.from_numpy(code_table(parse(regions))) if regions else None
        self.register_buffer("table", table, persistent=False)

    def forward(self, logits: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        if not outputs:
            raise InputError("the loss got no logits, wanted a tensor or at least one in a sequence")
        if not self.deep_supervision or len(outputs) == 1:
            return torch.stack([self._of_one(output, labels) for output in outputs]).sum()
        parts = [
            self._of_one(output, at_size(labels, output.shape[2:])) / 2**level
            for level, output in enumerate(outputs)
        ]
        return torch.stack(parts).sum() / sum(2.0**-level for level in range(len(outputs)))

    def _of_one(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.ndim == 2:
            return self.presence_weight * presence(logits, labels)
        labels = _checked(logits, labels)
        logits = _resized(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.shape[1:])
        if self.table is not None:
            return self._of_regions(logits, labels)
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_ids(labels, logits.shape[1], self.ignore_index)
        if self.class_weights is not None:  # kept there: a copy in every step would stall a GPU
            self.class_weights = self.class_weights.to(logits)
        entropy = cross_entropy(logits, labels, self.ignore_index, self.class_weights)
        p = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(1)
        t, ignored = _one_hot(logits, labels, self.ignore_index), labels == self.ignore_index
        if self.masked:
            kept = ~ignored
            entropy = entropy * (labels.numel() / kept.sum().clamp(min=1))
            p = p * kept.unsqueeze(1)
            ignored = torch.zeros_like(ignored)
        return self.ce_weight * entropy + self.dice_weight * self.dice(p, t, ignored, background=True)

    def _of_regions(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.table is None or logits.shape[1] != len(self.table):
            wanted = 0 if self.table is None else len(self.table)
            raise InputError(f"the loss got {logits.shape[1]} logits for {wanted} regions: check num_classes")
        self.table = self.table.to(labels.device)
        t = self.table[:, labels].transpose(0, 1).to(logits.dtype)  # (B, R, *S)
        entropy, p = F.binary_cross_entropy_with_logits(logits, t, reduction="none"), logits.sigmoid()
        ignored = torch.zeros_like(labels, dtype=torch.bool)
        if not self.masked:
            mean = entropy.sum() / entropy.numel()
        else:
            kept = (labels != self.ignore_index).unsqueeze(1)
            mean = (entropy * kept).sum() / (kept.sum() * logits.shape[1]).clamp(min=1)
            p, t = p * kept, t * kept
        return self.ce_weight * mean + self.dice_weight * self.dice(p, t, ignored, background=False)


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, class_weights: Tensor | None = None
) -> Tensor:
    """Summed over the pixels that have a label (B, *S), divided by the number of all pixels."""
    # Not reduction="sum", which a GPU adds up in another order each time.
    entropy = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_index, reduction="none")
    return entropy.sum() / labels.numel()


def presence(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, K) and which classes are in the labels (B, [1,] *S)."""
    classes = torch.arange(logits.shape[1], device=labels.device)
    there = (labels.flatten(1).unsqueeze(2) == classes).any(1)
    return F.binary_cross_entropy_with_logits(logits.float(), there.float())


def at_size(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, [1,] *S) at another size, each the nearest one; the same ones where they have it."""
    if tuple(labels.shape[-len(size) :]) == tuple(size):
        return labels
    channels = labels if labels.ndim == len(size) + 2 else labels.unsqueeze(1)
    coarse = F.interpolate(channels.float(), tuple(size), mode="nearest-exact").to(labels.dtype)
    return coarse if labels.ndim == coarse.ndim else coarse.squeeze(1)


def dice_per_class(p: Tensor, t: Tensor, ignored: Tensor, *, background: bool) -> Tensor:
    """The form `softmax`: one Dice per sample and class, smoothed by 1; see the module."""
    spatial = tuple(range(2, p.ndim))
    counts = t.sum(spatial)  # (B, K)
    if background:
        counts = torch.cat([counts[:, :-1], counts[:, -1:] + ignored.flatten(1).sum(1)[:, None]], 1)
    return (1 - (2 * (p * t).sum(spatial) + 1) / (p.square().sum(spatial) + counts + 1)).mean()


def dice_squared(p: Tensor, t: Tensor, ignored: Tensor, *, background: bool) -> Tensor:  # noqa: ARG001 -- as all
    """The forms `sigmoid` and `softmax_flat`: one Dice per sample; see the module."""
    sample = tuple(range(1, p.ndim))
    return (1 - 2 * (p * t).sum(sample) / (p.square().sum(sample) + t.sum(sample) + 2e-3)).mean()


def dice_naive(p: Tensor, t: Tensor, ignored: Tensor, *, background: bool) -> Tensor:  # noqa: ARG001
    """One Dice per sample without squares; see the module."""
    sample = tuple(range(1, p.ndim))
    return (1 - (2 * (p * t).sum(sample) + 1e-5) / (p.sum(sample) + t.sum(sample) + 1e-5)).mean()


def dice_nnunet(p: Tensor, t: Tensor, ignored: Tensor, *, background: bool) -> Tensor:
    """Minus one Dice per class of the whole batch, without background; see the module."""
    batch = (0, *range(2, p.ndim))
    p, t = (p[:, 1:], t[:, 1:]) if background else (p, t)
    p = p * (~ignored).unsqueeze(1)
    return -((2 * (p * t).sum(batch) + 1e-5) / (p.sum(batch) + t.sum(batch) + 1e-5)).mean()


def _one_hot(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """(B, K, *S), all zero where the label is ignored; floats, which multiply faster than booleans."""
    classes = torch.arange(logits.shape[1], device=labels.device).view(-1, *[1] * (labels.ndim - 1))
    return ((labels.unsqueeze(1) == classes) & (classes != ignore_index)).to(logits.dtype)


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if logits.ndim == 4:
        return resized_to(logits, size)
    same = tuple(logits.shape[2:]) == tuple(size)
    return logits if same else F.interpolate(logits, tuple(size), mode="trilinear", align_corners=False)


def _checked(logits: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64 (B, *S)."""
    if labels.ndim == logits.ndim and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if logits.ndim not in (4, 5) or labels.ndim != logits.ndim - 1 or len(logits) != len(labels):
        raise InputError(
            f"the loss got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}, wanted (B, K, h, w) "
            "and (B, 1, H, W) or (B, H, W), or both with a depth"
        )
    return labels.long()


def _check_ids(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if wrong.any():
        raise InputError(
            f"the loss got label {int(labels[wrong][0])}, wanted 0 to {num_classes - 1}, or {ignore_index} for "
            "pixels to ignore: check num_classes and the recipe's label map"
        )


Dice = Callable[..., Tensor]

DICE: dict[str, tuple[str, Dice]] = {  # what makes p of logits, and the form
    "softmax": ("softmax", dice_per_class),
    "sigmoid": ("sigmoid", dice_squared),
    "softmax_flat": ("softmax", dice_squared),
    "naive": ("softmax", dice_naive),
    "nnunet": ("softmax", dice_nnunet),
}
