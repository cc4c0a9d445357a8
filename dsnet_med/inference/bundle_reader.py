"""A trained model from a folder: a run, an exported bundle, or a zip archive of either.

What is needed is read as plain values; a folder whose network can only be built by running code of its own has
to be the user's own, or trusted. Weights are read as safetensors, or by torch's `weights_only`.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsnet_med.archives import is_zip, only_folder, unpack
from dsnet_med.errors import InputError, cannot_read, one_line, root_cause
from dsnet_med.files import parse_json, read_text, sha256
from dsnet_med.geometry import SliceAxis
from dsnet_med.inference.hub import is_reference, located, reference
from dsnet_med.inference.record import require_recorded, summary_of
from dsnet_med.inference.safe_config import code_in
from dsnet_med.inference.settings import FITS as FITS  # noqa: PLC0414 -- for those who offer them
from dsnet_med.inference.settings import ONE_CHANNEL, settings_from
from dsnet_med.inference.trust import executed_files, is_own
from dsnet_med.networks.checkpoint import checkpoint_bytes, weights_of
from dsnet_med.networks.definition import build, literal
from dsnet_med.prepare.intensity import Intensity
from dsnet_med.regions import Region
from dsnet_med.sniff import content_of, known_as
from dsnet_med.yaml_core import parse_yaml

_CONFIGS = ("configs/inference.yaml", "configs/inference.json")
_WEIGHTS = ("models/model.safetensors", "models/model.pt")


@dataclass(frozen=True)
class Model:
    """A network (on the CPU, in evaluation mode) and how volumes are handed to it.

    `size` is that of slices, (rows, columns), or of windows, (slices, rows, columns). `intensities` has a rule
    for each of `channel_names`. With `resample_channels`, channels on other grids come on that of the first.
    `spacing_mm` is that of slices, rows and columns to which volumes are resampled, None for none.
    `class_names` are those of the written label map, background first; `regions` are what the network scores in
    place of them, where there are any. `fingerprint` is a hash of weights and configuration; `facts` is what
    summary.json says of the training.
    """

    network: nn.Module
    size: tuple[int, ...]
    fit: str
    intensities: tuple[Intensity, ...]
    slice_axis: SliceAxis
    class_names: tuple[str, ...]
    in_channels: int
    fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = (ONE_CHANNEL,)
    spacing_mm: tuple[float, float, float] | None = None
    resample_channels: bool = False
    regions: tuple[Region, ...] = ()

    @property
    def intensity(self) -> Intensity:
        """The rule of the first channel."""
        return self.intensities[0]

    @property
    def spatial_dims(self) -> int:
        return len(self.size)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the network's outputs are: the regions, else the classes."""
        return tuple(region.name for region in self.regions) or self.class_names

    @property
    def title(self) -> str:
        """What the method is called, as far as the folder says."""
        method = self.facts.get("method")
        title = method.get("title") if isinstance(method, dict) else None
        return title if isinstance(title, str) else "dsnet-med"


def load_model(path: Path | str, *, trust: bool = False) -> Model:
    """The model in a run folder, an exported bundle or a zip of one, or of the hub (`hf://OWNER/NAME`).

    Raises InputError for a folder that is none, for weights that are absent, damaged or of another network, and
    for a folder that would run code of its own, unless `trust` is given or the user's own `train` made it;
    what comes from the hub is a stranger's whoever sent it.
    """
    where = reference(path)
    with _opened(path) as folder:
        file = _first_of(folder, _CONFIGS)
        if file is None:
            raise InputError(
                f"{where}: not a run folder, it has no {_CONFIGS[0]}; give what train or export wrote"
            )
        config = _config(where, file)
        settings = settings_from(where, config)
        network = _network(where, file, config, trust=trust, hub=is_reference(path))
        weights = _first_of(folder, _WEIGHTS)
        if weights is None:
            wanted = " or ".join(_WEIGHTS)
            raise InputError(
                f"{where}: no such checkpoint, {wanted}; train first, or wait for the first validation"
            )
        content = load_strictly(network, weights)
        facts = summary_of(folder, where)
        record = require_recorded(folder, network.state_dict(), facts, where)
        hashes = hashlib.sha256(content).hexdigest() + "".join(map(sha256, executed_files(folder)))
        return Model(
            network=network.eval(),
            fingerprint=hashlib.sha256(hashes.encode()).hexdigest(),
            facts=facts | ({"weights": record} if facts else {}),
            **settings,
        )


def settings_of(folder: Path) -> dict[str, Any]:
    """How volumes are handed to the network of a run folder or a bundle: the plain values of a Model.

    Raises InputError.
    """
    file = _first_of(folder, _CONFIGS)
    if file is None:
        raise InputError(
            f"{folder}: not a run folder, it has no {_CONFIGS[0]}; give what train or export wrote"
        )
    return settings_from(folder, _config(folder, file))


@contextmanager
def _opened(path: Path | str) -> Iterator[Path]:
    path = located(path)
    if path.is_dir():
        yield path
        return
    if not is_zip(path):
        known = known_as(content_of(path).start) if path.exists() else None
        other = f"it is {known[0]}; {known[1]}" if known else "neither a folder nor a zip archive"
        missing = other if path.exists() else "no such file or folder"
        raise InputError(f"{path}: {missing}; wanted a run folder, an exported bundle, or a zip of one")
    with tempfile.TemporaryDirectory(prefix="dsnet-med-") as temporary:
        unpack(path, Path(temporary))
        yield only_folder(Path(temporary))


def _first_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _config(path: Path | str, file: Path) -> dict[str, Any]:
    try:
        text = read_text(file)
        config = parse_json(text) if file.suffix == ".json" else parse_yaml(text, old=True)
    except (OSError, ValueError, MemoryError) as error:
        raise cannot_read(path, error, f"{file.name} cannot be read ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: {file.name} holds no settings")
    return config


def _network(path: Path | str, file: Path, config: Mapping[str, Any], *, trust: bool, hub: bool) -> nn.Module:
    definition, folder = config.get("slice_network"), file.parents[1]
    if definition is None:
        raise InputError(f"{path}: its configuration has no slice_network; give what train or export wrote")
    code = code_in(definition)
    if code and not (trust or (not hub and is_own(folder))):
        raise InputError(
            f"{path}: would run code of its own ({code}); read {folder if hub else folder.name}'s configs and "
            "scripts, and where you trust them say --trust (trust=True in Python)"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
            network = _built_by_monai(file) if code else _built(definition, config)
    except InputError:
        raise
    except Exception as error:  # whatever parts raise for arguments that do not fit them
        cause = root_cause(error)
        reason = f"{type(cause).__name__}: {one_line(cause)}"
        raise InputError(f"{path}: its network cannot be built ({reason})") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{path}: its slice_network is a {type(network).__name__}, wanted a network")
    return network


def _built(definition: Any, config: Mapping[str, Any]) -> Any:
    """The network of a plain definition, which may refer to the configuration's plain values as @name."""
    plain = {name: value for name, value in config.items() if isinstance(value, int | float)}
    outputs = len(config.get("regions") or config["class_names"])
    counted = {"num_classes": outputs, "pretrained": False}
    channels = len(config.get("channel_names") or [ONE_CHANNEL])
    return build(_without_downloads(definition), {"in_channels": channels, "width": 1.0} | plain | counted)


def _without_downloads(definition: Any) -> Any:
    """The definition with `pretrained` off: the weights come from the folder."""
    if isinstance(definition, Mapping):
        return {
            name: False if name == "pretrained" else _without_downloads(value)
            for name, value in definition.items()
        }
    return [_without_downloads(item) for item in definition] if isinstance(definition, list) else definition


def _built_by_monai(file: Path) -> Any:
    """The network by MONAI's own parser, which runs what the configuration says."""
    from monai.bundle import ConfigParser  # noqa: PLC0415 -- ten seconds, for folders with code alone

    parser = ConfigParser()
    parser.read_config(str(file))
    parser["bundle_root"] = literal(str(file.parents[1]))
    parser["pretrained"] = False
    return parser.get_parsed_content("slice_network")


def load_strictly(network: nn.Module, file: Path) -> bytes:
    """Load every weight of a file into `network`; its bytes. InputError where they are not of this network."""
    content = checkpoint_bytes(file)
    weights = weights_of(content, file)
    try:
        own = network.state_dict().keys()
        if weights.keys() == {f"network.{name}" for name in own}:  # of a bundle's slice-wise wrapper
            weights = {name.removeprefix("network."): value for name, value in weights.items()}
        network.load_state_dict(weights)
        return content
    except (RuntimeError, KeyError) as error:
        raise InputError(f"{file}: not the weights of this network ({one_line(error, 300)})") from error
