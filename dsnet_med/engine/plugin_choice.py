"""A run with a plug-in put into its method: checked before the run is made, written into its configuration.

The configuration keeps the method's own `network_def` and wraps it in `dsnet_med.methods.with_plugin`. A
plug-in's file is copied into the run's scripts/, so that the run can be loaded wherever its folder goes.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from dsnet_med.engine.card import UNKNOWN
from dsnet_med.errors import InputError, one_line
from dsnet_med.files import written_whole
from dsnet_med.methods import with_plugin
from dsnet_med.networks.attaching import DEFAULT_PLACE
from dsnet_med.networks.definition import literal
from dsnet_med.networks.plugin_file import file_of, is_file, load_plugin, with_arguments


@dataclass(frozen=True)
class PluginChoice:
    """A plug-in, "SE", "SE(ratio=8)" or "mine.py:Mine", and the glob of the submodules that it follows.

    `counting` is the plug-in whose parameters PointwiseConv counts.
    """

    plugin: str
    at: str = DEFAULT_PLACE
    counting: str | None = None

    @property
    def name(self) -> str:
        """What the plug-in is called in titles."""
        counted = f"({_class_in(self.counting)})" if self.counting else ""
        return f"{_class_in(self.plugin)}{counted}"

    def check(self, config: Mapping[str, Any]) -> None:
        """Try the plug-in in the network of a composed train.yaml, and a step of training with it.

        Raises InputError where it does not fit or fails.
        """
        parser = ConfigParser(dict(config) | {"pretrained": False})
        try:
            network: nn.Module = parser.get_parsed_content("network_def")
            images = torch.randn(
                parser.get_parsed_content("batch_size"), config["in_channels"], *_sides(config)
            )
            _step(network, images)
        except Exception:  # a setting of the wrong kind, which training will report
            return
        with_plugin(network, self._factory(), self.at)
        try:
            _step(network, images)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever a stranger's plug-in raises
            reason = f"{type(error).__name__}: {one_line(str(error), 300)}"
            raise InputError(f"{self.name} at {self.at} fails in training: {reason}") from error

    def add_to(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The composed train.yaml with the plug-in in its network and in its method's title."""
        network = {
            "_target_": "dsnet_med.methods.with_plugin",
            "network": config["network_def"],
            "plugin": self._written(),
            "at": literal(self.at),
        }
        return {**config, "network_def": network, "method_card": self._card(config["method_card"])}

    def copy_into(self, run: Path) -> None:
        """Copy the plug-in's file, where it has one, into the run folder."""
        for text in self._of_files():
            with written_whole(run / _script(text)) as temporary:
                shutil.copyfile(file_of(text), temporary)

    def copies_in(self, run: Path) -> list[Path]:
        """The files that `copy_into` makes."""
        return [run / _script(text) for text in self._of_files()]

    def _of_files(self) -> list[str]:
        return [text for text in (self.plugin, self.counting) if text and is_file(text)]

    def _factory(self) -> str | Callable[[int], nn.Module]:
        if self.counting is None:
            return self.plugin
        counts: Callable[..., nn.Module] = load_plugin(self.plugin)
        return partial(counts, parameters=load_plugin(self.counting))

    def _written(self) -> Any:
        """The plug-in in a configuration."""
        if self.counting is not None:
            counted = _called(self.counting)
            if is_file(self.counting):
                counted = {"_target_": "dsnet_med.networks.plugin_file.load_plugin", "name": counted}
            elif isinstance(counted, str):
                counted = _part(counted, {})
            return _part(*with_arguments(self.plugin)) | {"parameters": counted}
        return _called(self.plugin)

    def _card(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """The method's card with the plug-in named; its counts no longer hold and are left out."""
        own = [] if card["plugin"] in ("none", UNKNOWN) else [(card["plugin"], card["place"])]
        pairs = [*own, (self.name, self.at)]
        changed = {
            "id": f"{card['id']}+{self.name}",
            "title": f"{card['title']} + {self.name} at {self.at}",
            "plugin": "; ".join(plugin for plugin, _ in pairs),
            "place": "; ".join(place for _, place in pairs),
        }
        return {key: value for key, value in (dict(card) | changed).items() if isinstance(value, str)}


def _called(plugin: str) -> Any:
    """A plug-in in a configuration: a name that `load_plugin` reads, or a part where it has arguments."""
    if is_file(plugin):
        return f"$@bundle_root + '/{_script(plugin)}:{_class_in(plugin)}'"
    name, arguments = with_arguments(plugin)
    return _part(name, arguments) if arguments else name


def _part(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: literal(value) if isinstance(value, str) else value for key, value in arguments.items()}
    return {"_target_": f"dsnet_med.networks.plugins.{name}", "_mode_": "callable", **values}


def _class_in(plugin: str) -> str:
    return plugin.rpartition(":")[2] if is_file(plugin) else plugin


def _script(plugin: str) -> str:
    """Where a plug-in's file lies in a run folder; MONAI reads meaning into @, % and the like."""
    return f"scripts/{re.sub(r'[^a-zA-Z0-9]', '_', file_of(plugin).stem)}.py"


def _sides(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The sides of images on which a step is tried: 64 x 64, and of volumes as few as the network takes."""
    if config.get("spatial_dims", 2) == 2:
        return 64, 64
    stride = config.get("stride", 1)
    sides = [max(16, each) for each in (stride if isinstance(stride, list) else [stride] * 3)]
    return sides[0], sides[1], 2 * sides[2]  # the coarsest map must have two voxels, for its norm


def _step(network: nn.Module, images: Tensor) -> None:
    """A training pass and its gradients; nothing is changed but running statistics."""
    outputs = network.train()(images)
    logits = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.stack([each.float().mean() for each in logits]).sum().backward()
