"""Rows of the comparison with the textbook form of their plug-ins: what the published code computes."""

from pathlib import Path

from torch import nn

from dsnet_med.methods import method_row
from dsnet_med.networks import plugins
from dsnet_med.networks.definition import build
from dsnet_med.networks.plugins.frequency_channel import fcanet_layer

TEXTBOOKS = {file.stem for file in (Path(__file__).parent / "textbook").glob("*.py")}


def direct_network(method: str, **values: object) -> nn.Module:
    """The row's network with textbook plug-ins; `values` are those that its `network_def` refers to."""
    values = {"in_channels": 3, "pretrained": False, "width": 1.0, **values}
    return build(_with_textbook_plugins(method_row(method)["network_def"]), values)


def _with_textbook_plugins(definition):
    if not isinstance(definition, dict):
        return definition
    changed = {key: _with_textbook_plugins(value) for key, value in definition.items()}
    if changed.get("_target_") == f"{fcanet_layer.__module__}.{fcanet_layer.__name__}":
        changed["_target_"] = "networks.textbook.frequency_channel.textbook_fcanet_layer"
    package, _, name = str(changed.get("_target_", "")).rpartition(".")
    if package == plugins.__name__:
        file = getattr(plugins, name).__module__.rpartition(".")[2]
        assert file in TEXTBOOKS, f"no textbook form of {name}"
        changed["_target_"] = f"networks.textbook.{file}.Textbook{name}"
    return changed


def with_reference_names(network: nn.Module) -> nn.Module:
    """`network`, ready for `from_reference`: textbook plug-ins carry the reference's names already."""
    for module in network.modules():
        name = type(module).__name__
        if name.startswith("Textbook"):
            plugin = getattr(plugins, name.removeprefix("Textbook"))
            module.reference_names = ()
            for key in ("reference_name", "reference_name_in_head"):
                if hasattr(plugin, key):
                    setattr(module, key, getattr(plugin, key))
            if name == "TextbookPSA":
                module.reference_name = "psa_p" if module.parallel else "psa_s"
    return network
