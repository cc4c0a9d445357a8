"""What a training left in its folder is told from what came there since."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from safetensors.torch import save_file
from torch import nn

from dsnet_med.engine.checkpoints import save_state
from dsnet_med.engine.handlers import BestWeights
from dsnet_med.errors import InputError
from dsnet_med.files import write_json
from dsnet_med.inference.record import RECORD, load_recorded, recorded, require_recorded, summary_of
from dsnet_med.networks.checkpoint import digest, read_checkpoint
from dsnet_med.seal import sealed

FACTS = {"method": "fcn", "seed": 1, "store_id": "abc"}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def _same(one: nn.Module, other: nn.Module) -> bool:
    return digest(one.state_dict()) == digest(other.state_dict())


def trained(run: Path, seed: int = 0) -> Path:
    """A run's folder, as training leaves it."""
    (run / "configs").mkdir(parents=True, exist_ok=True)
    (run / "configs" / "inference.yaml").write_text("size: [64, 64]\n")
    weights = network(seed).state_dict()
    with recorded(run, weights, FACTS):
        save_state(run / "models" / "model.pt", weights)
    write_json(run / "summary.json", sealed({"method": {"id": "fcn"}, "seed": 1}))
    return run


def test_what_training_left_is_vouched_for(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    other = network(5)
    load_recorded(other, run / "models" / "model.pt")
    assert _same(other, network(0))
    weights = read_checkpoint(run / "models" / "model.pt")
    assert require_recorded(run, weights, {}) == "as trained"
    save_file(weights, run / "models" / "model.safetensors")  # the same tensors, stored otherwise
    assert require_recorded(run, read_checkpoint(run / "models" / "model.safetensors"), {}) == "as trained"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: save_state(run / "models/model.pt", network(1).state_dict()), "its weights are not those"),
        (
            lambda run: (run / "configs/inference.yaml").write_text("size: [96, 64]\n"),
            "inference.yaml is not as",
        ),
        (lambda run: write_json(run / "scripts" / "mine.json", {}), r"scripts/mine\.json is not as"),
        (lambda run: (run / RECORD).write_text("{"), "weights.json is damaged"),
        (lambda run: (run / RECORD).write_text("{}"), "weights.json is damaged"),
        (lambda run: write_json(run / "summary.json", sealed({"seed": 2})), "another training, of other seed"),
    ],
)
def test_what_was_exchanged_is_noticed_until_that_is_meant(
    change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run")
    change(run)
    with pytest.raises(InputError, match=words) as refused:
        load_recorded(network(5), run / "models" / "model.pt")
    assert "remove weights.json where the change is meant" in str(refused.value)
    (run / RECORD).unlink()
    load_recorded(network(5), run / "models" / "model.pt")
    assert require_recorded(run, {}, {}) == "without a record"


def test_the_weights_of_another_run_with_its_record(tmp_path: Path) -> None:
    run, other = trained(tmp_path / "run"), tmp_path / "other"
    with recorded(other, network(1).state_dict(), {**FACTS, "seed": 2}):
        save_state(other / "models" / "model.pt", network(1).state_dict())
    shutil.copytree(other, run, dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"inference\.yaml|another training"):
        load_recorded(network(5), run / "models" / "model.pt")


def test_a_bundle_notices_it_too(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    wrapped = nn.ModuleDict({"module": network(5)})
    engine = Engine(lambda *_: None)
    BestWeights(str(run / "models" / "model.pt"), wrapped).attach(engine)
    engine.run([0])
    assert _same(wrapped["module"], network(0))
    save_state(run / "models" / "model.pt", network(1).state_dict())
    with pytest.raises(InputError, match="its weights are not those"):
        engine.run([0])


def test_a_run_killed_while_its_best_are_written_is_whole(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    for wrote in (False, True):
        try:
            with recorded(run, network(1).state_dict(), FACTS):
                if wrote:
                    save_state(run / "models" / "model.pt", network(1).state_dict())
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            load_recorded(network(5), run / "models" / "model.pt")
    with recorded(run, network(2).state_dict(), FACTS):
        save_state(run / "models" / "model.pt", network(2).state_dict())
    assert len(json.loads((run / RECORD).read_text())["weights_sha256"]) == 1


def test_a_summary_that_was_changed(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    file = run / "summary.json"
    text = file.read_text()
    assert summary_of(run)["seed"] == 1
    for changed in (text.replace('"seed": 1', '"seed": 3'), '{"seed": 1}', "{", "[]"):
        file.write_text(changed)
        with pytest.raises(InputError, match="restore it, or remove it"):
            summary_of(run)
    (run / RECORD).unlink()
    for changed in ('{"seed": 1}', "{", "[]"):  # of another program, or an earlier version
        file.write_text(changed)
        assert summary_of(run) == ({"seed": 1} if "seed" in changed else {})
    file.unlink()
    assert summary_of(run) == {}


def test_want_of_means_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(24, "Too many open files")

    run = trained(tmp_path / "run")
    monkeypatch.setattr("dsnet_med.inference.record.read_json", refuse)
    with pytest.raises(InputError, match=r"cannot be read: too many files are open"):
        load_recorded(network(5), run / "models" / "model.pt")
