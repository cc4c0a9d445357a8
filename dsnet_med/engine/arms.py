"""The arms of a trial: which networks are compared, as they are typed, and the placebos that belong to them.

An arm is a row (`fcn`), a row's own file, or either with a plug-in at a place: `fcn+SE@layer4.*.act2`,
`fcn+SE(ratio=8)@layer4.*.act2`, `fcn+mine.py:Mine@layer3.*.act2`. `fcn+PointwiseConv(SE)@layer4.*.act2` has as
many parameters as `fcn+SE` has there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsnet_med.errors import InputError
from dsnet_med.methods import method_ids, method_row, natural_method_ids
from dsnet_med.networks import plugins
from dsnet_med.networks.attaching import DEFAULT_PLACE
from dsnet_med.networks.plugin_file import is_file, load_plugin, plugin_text, text_of

PLACEBOS = ("Identity", "RandomGate", "ConstantGate", "PointwiseConv", "UniformDSM")  # see plugins/placebo.py
_IN_HEAD = {"dsnet_med.networks.heads.FCNHead": "head.convs.0"}  # what a head's own plug-in follows
_PACKAGE = "dsnet_med.networks.plugins."


@dataclass(frozen=True)
class Arm:
    """One network of a trial: the row `method`, an id or a file, with or without a plug-in at a place.

    `plugin` and `counting` are texts that `load_plugin` reads; `counting` is the plug-in whose parameters
    PointwiseConv counts.
    """

    name: str
    method: str
    plugin: str | None = None
    at: str | None = None
    counting: str | None = None


def split_arms(text: str) -> list[str]:
    """The arms in `A,B,...`; commas in parentheses and brackets belong to an arm."""
    arms, depth = [""], 0
    for sign in text:
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth <= 0:
            arms.append("")
        else:
            arms[-1] += sign
    return [arm.strip() for arm in arms]


def parse_arms(texts: str | Sequence[str]) -> list[Arm]:
    """The arms that `texts` say; each text may name several, with commas between.

    Raises InputError for a row or a plug-in that does not exist, and for an arm named twice.
    """
    typed = [arm for text in ([texts] if isinstance(texts, str) else texts) for arm in split_arms(text)]
    if not typed or not all(typed):
        raise InputError("got an arm without a name: give --methods A,B,..., such as fcn,fcn_se")
    arms: dict[str, Arm] = {}
    for text in typed:
        arm = _parsed(text)
        if arm.name in arms:
            raise InputError(
                f"got the arm {arm.name} twice: name each once, and give classes of two files two names"
            )
        arms[arm.name] = arm
    return list(arms.values())


def _parsed(text: str) -> Arm:
    found = re.fullmatch(r"(.+?\.ya?ml)(?:\+(.*))?", text) or re.fullmatch(r"([^+]*)(?:\+(.*))?", text)
    method, rest = found.groups() if found else (text, None)
    row = str(method_row(method)["method_card"]["id"])
    if rest is None:
        return Arm(row, method)
    inside = re.fullmatch(r"(.+?\.py:\w*)(?:@(.*))?", rest) or re.fullmatch(r"([^@]*)(?:@(.*))?", rest)
    plugin, at = inside.groups() if inside else (rest, None)
    if at == "" or not plugin:
        raise InputError(f"got the arm '{text}', wanted row+PLUGIN@PLACE, such as fcn+SE@{DEFAULT_PLACE}")
    return _arm(row, method, plugin, at or DEFAULT_PLACE)


def _arm(row: str, method: str, plugin: str, at: str) -> Arm:
    """The arm of a row with a plug-in, whose names are checked."""
    counted = re.fullmatch(r"PointwiseConv\((\s*[^=\s]+\s*|.*\(.*\)\s*)\)", plugin)
    counting = None
    if counted:
        counting, plugin = plugin_text(counted[1].strip()), "PointwiseConv"
    plugin = plugin_text(plugin)
    return Arm(f"{row}+{named(plugin, counting)}@{at}", method, plugin, at, counting)


def named(plugin: str, counting: str | None = None) -> str:
    """What a plug-in is called in names of arms: that of a file by its class."""
    short = plugin.rpartition(":")[2] if is_file(plugin) else plugin
    return f"{short}({named(counting)})" if counting else short


def placebos_of(arms: Sequence[Arm]) -> tuple[list[Arm], dict[str, list[str]], list[str]]:
    """The placebos of every arm with a plug-in: those not among `arms`, which belong to which, and notes.

    Each sits in the arm's host, the row without the plug-in, at the plug-in's place: Identity, RandomGate,
    ConstantGate, PointwiseConv with that plug-in's parameters where it has any, and for a DSM UniformDSM. Arms
    that share a host and a place share placebos. A row whose plug-in has no place of its own has none, which a
    note says.
    """
    every = {arm.name: arm for arm in arms}
    belong: dict[str, list[str]] = {}
    notes = []
    for arm in arms:
        if _base(arm.plugin) in PLACEBOS:
            continue
        try:
            own = list(_placebos(arm))
        except InputError as error:
            notes.append(f"{arm.name} gets no placebos: {error}.")
            continue
        for placebo in own:
            every.setdefault(placebo.name, placebo)
        if own:
            belong[arm.name] = [placebo.name for placebo in own]
    return [arm for arm in every.values() if arm not in arms], belong, notes


def _placebos(arm: Arm) -> Iterator[Arm]:
    """The placebos of one arm. Raises InputError where they cannot be placed."""
    method, plugin, at = (arm.method, arm.plugin, arm.at) if arm.plugin else _built_in(arm.method)
    if plugin is None or at is None:
        return
    row = str(method_row(method)["method_card"]["id"])
    for placebo in ("Identity", "RandomGate", "ConstantGate"):
        yield _arm(row, method, placebo, at)
    if _has_parameters(plugin):
        yield Arm(f"{row}+{named('PointwiseConv', plugin)}@{at}", method, "PointwiseConv", at, plugin)
    if _base(plugin) in ("DSM", "PooledDSM"):
        bias = "bias=True" in plugin
        yield _arm(row, method, "UniformDSM(bias=True)" if bias else "UniformDSM", at)


def _base(plugin: str | None) -> str:
    """A plug-in's name without its arguments."""
    return (plugin or "").partition("(")[0]


def _has_parameters(plugin: str) -> bool:
    try:
        with torch.device("meta"):
            return any(True for _ in load_plugin(plugin)(64).parameters())
    except Exception:  # a stranger's, which may not be made so
        return True


def _built_in(method: str) -> tuple[str, str | None, str | None]:
    """The host row of a row that has a plug-in, the plug-in as a text, and its place; None where it has none.

    Raises InputError where there is no such host or place.
    """
    row = method_row(method)
    card, definition = row["method_card"], row["network_def"]
    found = [(part, own) for part in ("backbone", "head") if (own := _part(definition, part)).get("plugin")]
    if not found:
        if card.get("plugin", "none") == "none":
            return method, None, None
        raise InputError(f"its attention ({card['plugin']}) is a part of its {card.get('place', 'head')}")
    part, own = found[0]
    at = own.get("at", DEFAULT_PLACE) if part == "backbone" else _IN_HEAD.get(own.get("_target_", ""))
    host = _row_like({**row, "network_def": {**definition, part: _without(own)}})
    plugin = _as_text(own["plugin"])
    if at is None or host is None or plugin is None or len(found) > 1:
        raise InputError(
            f"no row is the same without its plug-in ({card.get('plugin', '')}), where a placebo could sit"
        )
    return host, plugin, at


def _part(definition: Any, name: str) -> Mapping[str, Any]:
    part = definition.get(name) if isinstance(definition, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _without(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in ("plugin", "at")}


def _row_like(wanted: Mapping[str, Any]) -> str | None:
    """The row that is `wanted` but for its card."""
    content = {name: value for name, value in wanted.items() if name != "method_card"}
    for method in (*method_ids(), *natural_method_ids()):
        row = method_row(method)
        if {name: value for name, value in row.items() if name != "method_card"} == content:
            return method
    return None


def _as_text(plugin: Any) -> str | None:
    """A row's plug-in as `load_plugin` reads it; None where it is none of ours."""
    target = str(plugin.get("_target_", "")) if isinstance(plugin, Mapping) else ""
    name = target.removeprefix(_PACKAGE)
    if name == target or name not in plugins.__all__:
        return None
    return text_of(name, {key: value for key, value in plugin.items() if key[:1] != "_"})
