"""A trained model from a folder: a run, an exported bundle, or a zip archive of either.

What is needed is read as plain values; a folder whose network can only be built by running code of its own has
to be the user's own, or trusted. Weights are read as safetensors, or by torch's `weights_only`.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from dsnet_med.archives import is_zip, only_folder, unpack
from dsnet_med.errors import InputError, one_line, root_cause, unknown
from dsnet_med.files import sha256
from dsnet_med.geometry import SliceAxis
from dsnet_med.inference.safe_config import code_in
from dsnet_med.inference.trust import executed_files, is_own
from dsnet_med.networks.checkpoint import read_checkpoint
from dsnet_med.networks.definition import build, literal
from dsnet_med.prepare.intensity import Intensity

FITS = ("resize", "window")
_SLICE_AXES: tuple[SliceAxis, ...] = ("superior", "coarsest")
_LARGEST = 8192
_CONFIGS = ("configs/inference.yaml", "configs/inference.json")
_WEIGHTS = ("models/model.safetensors", "models/model.pt")


@dataclass(frozen=True)
class Model:
    """A network (on the CPU, in evaluation mode) and how slices are handed to it.

    `fingerprint` is a hash of weights and configuration; `facts` is what summary.json says of the training.
    """

    network: nn.Module
    size: tuple[int, int]
    fit: str
    intensity: Intensity
    slice_axis: SliceAxis
    class_names: tuple[str, ...]
    in_channels: int
    fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the method is called, as far as the folder says."""
        method = self.facts.get("method")
        title = method.get("title") if isinstance(method, dict) else None
        return title if isinstance(title, str) else "dsnet-med"


def load_model(path: Path, *, trust: bool = False) -> Model:
    """The model in a run folder, an exported bundle or a zip of one.

    Raises InputError for a folder that is none, for weights that are absent, damaged or of another network, and
    for a folder that would run code of its own, unless `trust` is given or the user's own `train` made it.
    """
    with _opened(path) as folder:
        config = _config(path, folder)
        settings = _settings(path, config)
        network = _network(path, folder, config, trust)
        weights = _weights_file(path, folder)
        _load(network, weights)
        return Model(
            network=network.eval(),
            fingerprint=_fingerprint(folder, weights),
            facts=_facts(folder),
            **settings,
        )


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path
        return
    if not is_zip(path):
        missing = "no such file or folder" if not path.exists() else "neither a folder nor a zip archive"
        raise InputError(f"{path}: {missing}; wanted a run folder, an exported bundle, or a zip of one")
    with tempfile.TemporaryDirectory(prefix="dsnet-med-") as temporary:
        unpack(path, Path(temporary))
        yield only_folder(Path(temporary))


def _config(path: Path, folder: Path) -> dict[str, Any]:
    file = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    if file is None:
        raise InputError(f"{path}: not a run folder, it has no {_CONFIGS[0]}; give what train or export wrote")
    try:
        text = file.read_text(encoding="utf-8")
        config = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {file.name} cannot be read ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: {file.name} holds no settings")
    return config


def _settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values that say how slices are handed over, checked."""
    names, size = config.get("class_names"), config.get("size")
    if not isinstance(names, list) or len(names) < 2 or not all(_is_name(name) for name in names):
        raise InputError(f"{path}: class_names is {names!r}, wanted a list of names, background first")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: class_names has one name twice: {names!r}")
    if not isinstance(size, list) or len(size) != 2 or not all(_is_length(length) for length in size):
        raise InputError(f"{path}: size is {size!r}, wanted [rows, columns], at most {_LARGEST}")
    return {
        "size": (size[0], size[1]),
        "class_names": tuple(names),
        "intensity": Intensity.from_dict(config.get("intensity")),
        "fit": _one_of("fit", config.get("fit", FITS[0]), FITS),
        "slice_axis": _one_of("slice_axis", config.get("slice_axis", _SLICE_AXES[0]), _SLICE_AXES),
        "in_channels": _channels(path, config),
    }


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and bool(name.strip())


def _is_length(length: Any) -> bool:
    return type(length) is int and 0 < length <= _LARGEST


def _one_of(kind: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise unknown(kind, str(value), known)
    return str(value)


def _channels(path: Path, config: Mapping[str, Any]) -> int:
    channels = config.get("in_channels", 1)
    if type(channels) is not int or channels not in (1, 3):
        raise InputError(f"{path}: in_channels is {channels!r}, wanted 1, or 3 for equal channels")
    return int(channels)


def _network(path: Path, folder: Path, config: Mapping[str, Any], trust: bool) -> nn.Module:
    definition = config.get("slice_network")
    if definition is None:
        raise InputError(f"{path}: its configuration has no slice_network; give what train or export wrote")
    code = code_in(definition)
    if code and not (trust or is_own(folder)):
        raise InputError(
            f"{path}: would run code of its own ({code}); read {folder.name}'s configs and scripts, and where "
            "you trust them say --trust (trust=True in Python)"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
            network = (
                _built_by_monai(folder) if code else build(_without_downloads(definition), _values(config))
            )
    except InputError:
        raise
    except Exception as error:  # whatever parts raise for arguments that do not fit them
        cause = root_cause(error)
        reason = f"{type(cause).__name__}: {one_line(cause)}"
        raise InputError(f"{path}: its network cannot be built ({reason})") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{path}: its slice_network is a {type(network).__name__}, wanted a network")
    return network


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a definition may refer to as @name: the plain values of the configuration."""
    plain = {name: value for name, value in config.items() if isinstance(value, int | float)}
    names = config.get("class_names")
    counted = {"num_classes": len(names)} if isinstance(names, list) else {}
    return {"in_channels": 1, "width": 1.0} | plain | counted | {"pretrained": False}


def _without_downloads(definition: Any) -> Any:
    """The definition with `pretrained` off: the weights come from the folder."""
    if isinstance(definition, Mapping):
        return {
            name: False if name == "pretrained" else _without_downloads(value)
            for name, value in definition.items()
        }
    return [_without_downloads(item) for item in definition] if isinstance(definition, list) else definition


def _built_by_monai(folder: Path) -> Any:
    """The network by MONAI's own parser, which runs what the configuration says."""
    from monai.bundle import ConfigParser  # noqa: PLC0415 -- ten seconds, for folders with code alone

    parser = ConfigParser()
    parser.read_config(str(next(folder / name for name in _CONFIGS if (folder / name).is_file())))
    parser["bundle_root"] = literal(str(folder))
    parser["pretrained"] = False
    return parser.get_parsed_content("slice_network")


def _weights_file(path: Path, folder: Path) -> Path:
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise InputError(
            f"{path}: no such checkpoint, {' or '.join(_WEIGHTS)}; train first, or wait for the first "
            "validation"
        )
    return file


def _load(network: nn.Module, file: Path) -> None:
    try:
        network.load_state_dict(_own_names(network, read_checkpoint(file)))
    except InputError as error:
        raise InputError(f"{file}: not the weights of this network ({error})") from error
    except (RuntimeError, KeyError) as error:
        raise InputError(f"{file}: not the weights of this network ({one_line(error, 300)})") from error


def _own_names(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` without the prefix that a bundle's slice-wise wrapper puts before every name."""
    prefix = "network."
    if weights and all(name.startswith(prefix) for name in weights):
        bare = {name.removeprefix(prefix): value for name, value in weights.items()}
        return bare if bare.keys() == network.state_dict().keys() else weights
    return weights


def _fingerprint(folder: Path, weights: Path) -> str:
    lines = [sha256(path) for path in (weights, *executed_files(folder))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / "summary.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # a bundle may come without
        return {}
    return facts if isinstance(facts, dict) else {}
