"""`import-checkpoint`: files as the published code saves them, made by turning our names back into its."""

import os
import pickle
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsnet_med.cli.app import app
from dsnet_med.cli.guard import guarded
from dsnet_med.cli.importing import import_checkpoint
from dsnet_med.errors import InputError
from dsnet_med.methods import build_network, published_ids
from dsnet_med.networks.checkpoint import read_checkpoint, write_safetensors
from dsnet_med.networks.reference import reference_names

NARROW = {"width": 0.125}


def theirs(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights under the published code's names."""
    names = reference_names(network)
    return OrderedDict((names[key], value) for key, value in network.state_dict().items())


def narrow(method: str = "fcn", num_classes: int = 9, in_channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_network(method, num_classes=num_classes, in_channels=in_channels, **NARROW)


@pytest.mark.parametrize("method", published_ids())
def test_every_method_comes_back_as_it_was(method: str, tmp_path: Path) -> None:
    network = narrow(method)
    with torch.no_grad():
        for value in network.state_dict().values():  # nothing at its initial value
            value.copy_(torch.randint(9, value.shape) if value.dtype == torch.long else torch.rand(value.shape))
    state = {f"module.{name}": value for name, value in theirs(network).items()}
    momentum = {0: {"momentum_buffer": torch.ones(3)}}
    optimizer = {"state": momentum, "param_groups": [{"lr": 0.01, "params": [0]}]}
    torch.save({"meta": {"iter": 40000}, "state_dict": state, "optimizer": optimizer}, tmp_path / "theirs.pth")
    out = tmp_path / "new" / "ours.safetensors"
    import_checkpoint(tmp_path / "theirs.pth", out, method=method, num_classes=9, **NARROW)
    other = build_network(method, num_classes=9, in_channels=3, **NARROW)
    other.load_state_dict(load_file(out), strict=True)
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    with safe_open(out, "pt") as file:
        facts = {name: text for name, text in file.metadata().items() if name != "crc32"}
        assert facts == {"format": "pt", "method": method, "num_classes": "9", "in_channels": "3"}
    assert [path.name for path in out.parent.iterdir()] == ["ours.safetensors"]  # nothing half-written


def test_safetensors_and_plain_state_dicts_are_read_too(tmp_path: Path) -> None:
    state = theirs(narrow())
    torch.save(state, tmp_path / "plain.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "plain.safetensors")
    for number, name in enumerate(("plain.pth", "old.pth", "plain.safetensors")):
        import_checkpoint(
            tmp_path / name, tmp_path / f"{number}.safetensors", method="fcn", num_classes=9, **NARROW
        )
    for number in range(3):
        weights = load_file(tmp_path / f"{number}.safetensors")
        assert weights.keys() == narrow().state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in narrow().state_dict().items())


class HistoryBuffer:
    """As MMEngine's: its numbers in NumPy, its statistics as functions of the class."""

    def __init__(self) -> None:
        self._log_history = np.array([1.0, 0.5])
        self._count = np.float64(2.0)
        self._statistics = {"mean": self.mean}

    def mean(self) -> float:
        raise RuntimeError("its code was run")

    def __setstate__(self, state: object) -> None:
        raise RuntimeError("its code was run")


class Trap:
    """Runs a command when it is unpickled by a reader that runs what it reads."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that HistoryBuffer has in real files."""
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_what_mmengine_adds_is_passed_over_without_running_it(mmengine: None, tmp_path: Path) -> None:
    hub = {"log_scalars": OrderedDict(loss=HistoryBuffer()), "runtime_info": {"epoch": np.int64(3)}}
    torch.save({"state_dict": theirs(narrow()), "message_hub": hub}, tmp_path / "mm.pth")
    with pytest.raises(pickle.UnpicklingError):  # as a file of this kind does
        torch.load(tmp_path / "mm.pth", weights_only=True)
    out, allowed = tmp_path / "ours.safetensors", set(torch.serialization.get_safe_globals())
    import_checkpoint(tmp_path / "mm.pth", out, method="fcn", num_classes=9, **NARROW)
    assert load_file(out).keys() == narrow().state_dict().keys()
    assert set(torch.serialization.get_safe_globals()) == allowed  # nothing new stays so


@pytest.mark.parametrize("new", [True, False])
def test_code_is_refused_and_not_run(new: bool, tmp_path: Path) -> None:
    content = {"state_dict": theirs(narrow()), "extra": Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "trap.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r"trap.pth holds Python objects \(posix.system\) .*and is refused"):
        read_checkpoint(tmp_path / "trap.pth")
    torch.save({"state_dict": {}, "fraction": __import__("fractions").Fraction(1, 2)}, tmp_path / "object.pth")
    with pytest.raises(InputError, match=r"Python objects \(fractions.Fraction\)"):
        read_checkpoint(tmp_path / "object.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("none.pth", {}, "no checkpoint at .*none.pth"),
        ("theirs.pth", {"num_classes": 14}, "has 9 classes and --num-classes is 14: give --num-classes 9"),
        (
            "theirs.pth",
            {"in_channels": 1},
            "takes 3 input channels and --in-channels is 1: give --in-channels 3",
        ),
        (
            "theirs.pth",
            {"method": "fcn_dsm"},
            r"not of this method: \d+ entries are missing from the checkpoint",
        ),
        ("theirs.pth", {"method": "fcn_dms"}, "did you mean 'fcn_dsm'"),
        (
            "theirs.pth",
            {"width": 0.25},
            r"entries have other shapes, such as 'backbone.conv1.0.weight' with \(4,",
        ),
        ("theirs.pth", {"out": "ours.pth"}, "wanted a name that ends in .safetensors"),
        ("damaged.pth", {}, "damaged.pth cannot be read: it is damaged, or no"),
        ("text.pth", {}, "text.pth cannot be read: it is damaged, or no"),
        ("text.safetensors", {}, "text.safetensors cannot be read as safetensors"),
        ("list.pth", {}, "holds no state dict"),
        ("numbers.pth", {}, "holds no state dict"),
        ("names.pth", {}, "holds no state dict"),
        ("sparse.pth", {}, "as a sparse tensor: save it with"),
        ("meta.pth", {}, "holds no values for"),
        ("complex.pth", {}, "'decode_head.conv_seg.bias' holds torch.complex64, and torch.float32 is wanted"),
        ("integers.pth", {}, "'decode_head.conv_seg.bias' holds torch.int64, and torch.float32 is wanted"),
        ("twice.pth", {}, "leave out one of the two"),
    ],
)
def test_what_is_wrong_is_one_line(file: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    torch.save(theirs(narrow()), tmp_path / "theirs.pth")
    whole = (tmp_path / "theirs.pth").read_bytes()
    (tmp_path / "damaged.pth").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights at all")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pth")
    save_spoilt(tmp_path)
    before = sorted(tmp_path.iterdir())
    given = {"method": "fcn", "num_classes": 9, **NARROW, **options}
    out = tmp_path / str(given.pop("out", "ours.safetensors"))
    with pytest.raises(InputError, match=message) as refused:
        import_checkpoint(tmp_path / file, out, **given)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def save_spoilt(folder: Path) -> None:
    """Checkpoints in which one thing is not as it should be."""
    good, bias = theirs(narrow()), "decode_head.conv_seg.bias"
    torch.save({1: torch.zeros(1)}, folder / "names.pth")
    torch.save({**good, bias: good[bias].to_sparse()}, folder / "sparse.pth")
    torch.save({**good, bias: good[bias].to("meta")}, folder / "meta.pth")
    torch.save({**good, bias: good[bias].to(torch.complex64)}, folder / "complex.pth")
    torch.save({**good, bias: good[bias].long()}, folder / "integers.pth")
    torch.save({**good, f"module.{bias}": good[bias]}, folder / "twice.pth")


def test_a_plain_pickle_is_one_line_without_warnings(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": [1, 2]}, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"plain\.pth"):
            read_checkpoint(tmp_path / "plain.pth")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        write_safetensors(tmp_path / "folder" / "x.safetensors", {"a": torch.zeros(1)}, {})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole network, its values as one number each: a small file."""
    with torch.device("meta"):
        network = build_network("fcn", num_classes=9, in_channels=3)
    state = {name: torch.full((), 0.5).expand(value.shape) for name, value in theirs(network).items()}
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    out = tmp_path / "ours.safetensors"
    command = ["import-checkpoint", str(tmp_path / "theirs.pth"), "--method", "fcn", "--out", str(out)]
    assert guarded(lambda: app([*command, "--num-classes", "4"], standalone_mode=False)) == 2
    assert capsys.readouterr().err.endswith("--num-classes is 4: give --num-classes 9\n")
    assert guarded(lambda: app([*command, "--num-classes", "9"], standalone_mode=False)) == 0
    assert capsys.readouterr().out.startswith(f"{len(state)} entries, ")
    assert out.stat().st_size > 4 * 47_127_913
