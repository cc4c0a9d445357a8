"""A run with a plug-in put into its method: checked before the run is made, written into its configuration.

The configuration keeps the method's own `network_def` and wraps it in `dsnet_med.methods.with_plugin`. A
plug-in's file is copied into the run's scripts/, so that the run can be loaded wherever its folder goes.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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
from dsnet_med.networks.plugin_file import file_of, is_file


@dataclass(frozen=True)
class PluginChoice:
    """A plug-in, "SE" or "mine.py:Mine", and the glob pattern of the submodules that it follows."""

    plugin: str
    at: str = DEFAULT_PLACE

    @property
    def name(self) -> str:
        """What the plug-in is called in titles."""
        return self.plugin.rpartition(":")[2]

    def check(self, config: Mapping[str, Any]) -> None:
        """Try the plug-in in the network of a composed train.yaml, and a step of training with it.

        Raises InputError where it does not fit or fails.
        """
        parser = ConfigParser(dict(config) | {"pretrained": False})
        try:
            network: nn.Module = parser.get_parsed_content("network_def")
            images = torch.randn(parser.get_parsed_content("batch_size"), config["in_channels"], 64, 64)
            _step(network, images)
        except Exception:  # a setting of the wrong kind, which training will report
            return
        with_plugin(network, self.plugin, self.at)
        try:
            _step(network, images)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever a stranger's plug-in raises
            reason = f"{type(error).__name__}: {one_line(str(error), 300)}"
            raise InputError(f"{self.name} at {self.at} fails in training: {reason}") from error

    def add_to(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The composed train.yaml with the plug-in in its network and in its method's title."""
        plugin = f"$@bundle_root + '/{self._script()}:{self.name}'" if is_file(self.plugin) else self.plugin
        network = {
            "_target_": "dsnet_med.methods.with_plugin",
            "network": config["network_def"],
            "plugin": plugin,
            "at": literal(self.at),
        }
        return {**config, "network_def": network, "method_card": self._card(config["method_card"])}

    def copy_into(self, run: Path) -> None:
        """Copy the plug-in's file, where it has one, into the run folder."""
        if is_file(self.plugin):
            with written_whole(run / self._script()) as temporary:
                shutil.copyfile(file_of(self.plugin), temporary)

    def copies_in(self, run: Path) -> list[Path]:
        """The files that `copy_into` makes."""
        return [run / self._script()] if is_file(self.plugin) else []

    def _script(self) -> str:
        """The file's place in the run folder; MONAI reads meaning into @, % and the like."""
        return f"scripts/{re.sub(r'[^a-zA-Z0-9]', '_', file_of(self.plugin).stem)}.py"

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


def _step(network: nn.Module, images: Tensor) -> None:
    """A training pass and its gradients; nothing is changed but running statistics."""
    outputs = network.train()(images)
    logits = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.stack([each.float().mean() for each in logits]).sum().backward()
