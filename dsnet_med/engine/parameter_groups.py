"""Parameter groups of an optimiser, by rules on the published code's names of the parameters.

The publications single out parameters by parts of their names ("norm", "backbone.stages.2"), so the rules are
matched against those names (networks/reference.py), whatever ours are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dsnet_med.errors import unknown
from dsnet_med.networks.reference import reference_names

_KEYS = ("match", "lr", "decay")


def parameter_groups(
    network: nn.Module,
    lr: float,
    weight_decay: float,
    rules: Sequence[Mapping[str, Any]] = (),
    *,
    decay_vectors: bool = True,
) -> list[dict[str, Any]]:
    """One group per pair of learning rate and weight decay, for any optimiser of PyTorch.

    A rule {"match": text, "lr": factor, "decay": factor} scales both for the parameters whose published name
    contains `text`; factors are 1 where left out, and the first rule that matches counts. Without
    `decay_vectors`, biases and parameters of one axis do not decay. Raises InputError for other keys of a rule.
    """
    for rule in rules:
        for word in rule:
            if word not in _KEYS:
                raise unknown("key of a parameter rule", str(word), _KEYS)
    names = reference_names(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for ours, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        name = names[ours]
        rule = next((rule for rule in rules if rule["match"] in name), {})
        vector = parameter.ndim <= 1 or name.endswith(".bias")
        decays = weight_decay if decay_vectors or not vector else 0.0
        key = (lr * rule.get("lr", 1.0), decays * rule.get("decay", 1.0))
        groups.setdefault(key, []).append(parameter)
    return [{"params": each, "lr": rate, "weight_decay": decay} for (rate, decay), each in groups.items()]
