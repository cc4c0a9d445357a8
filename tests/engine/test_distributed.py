"""Several processes compute what one computes, and end together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from narrow import NARROW
from timm.layers import BatchNormAct2d
from together import killed, measured, together
from torch import nn

from dsnet_med.engine import distributed
from dsnet_med.errors import InputError, StoppedError
from dsnet_med.methods import build_network
from dsnet_med.networks import attach
from dsnet_med.networks.plugins.dsm import DSM

# ---------------------------------------------------------------- parts, in this process


@given(st.integers(0, 20), st.integers(1, 9))
def test_every_item_goes_to_one_process(total, processes):
    dealt = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "world_size", lambda: processes)
        for process in range(processes):
            patched.setattr(distributed, "rank", lambda process=process: process)
            dealt.append(distributed.shard(range(total)))
    assert sorted(number for part in dealt for number in part) == list(range(total))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_one_process_is_no_special_case():
    distributed.start("cpu")
    distributed.stop()
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    network = nn.Linear(2, 2)
    assert distributed.parallel(network, sync_norm=True) is network
    assert distributed.shard("abc") == ["a", "b", "c"]
    assert distributed.on_main(max, 1, 2) == 2
    assert distributed.lost(RuntimeError("something else")) is None


@pytest.mark.parametrize(
    ("count", "name", "environment", "said"),
    [
        (0, "cpu", {}, "got 0 devices, wanted at least 1"),
        (2, "cpu", {"WORLD_SIZE": "4"}, "in one of 4 processes that torchrun or srun has started"),
        (2, "cpu", {"SLURM_STEP_NUM_TASKS": "4"}, "in one of 4 processes"),
        (3, "auto", {}, "got 3 processes on GPUs, and this machine has 2: start at most 2"),
        (2, "cuda:1", {}, "got --devices 2 and --device cuda:1: give --device cuda, which takes all"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_refused(count, name, environment, said, monkeypatch):
    _two_gpus(monkeypatch)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=said):
        distributed.check_devices(count, name)


def test_each_process_has_its_own_gpu(monkeypatch):
    _two_gpus(monkeypatch)
    distributed.check_devices(2, "auto")
    assert distributed.device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.device("auto") == torch.device("cuda:1")
    assert distributed.device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="got device 'cuda:1' for several processes: give 'cuda'"):
        distributed.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="got 3 processes on GPUs, and this machine has 2"):
        distributed.device("cuda")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")  # srun
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert distributed.device("auto") == torch.device("cuda:1")


def test_half_an_environment_is_refused(monkeypatch):
    for variable, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match="WORLD_SIZE is set, LOCAL_RANK not: start with torchrun or --devices"):
        distributed.start("cpu")


def _two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


# ---------------------------------------------------------------- norms over all processes


@pytest.mark.parametrize(("row", "at"), [("cityscapes/dsnet50_a", None), ("fcn", "backbone.layer4.*.bn3")])
def test_synchronised_norms_keep_plugins_names_and_results(row, at):
    """A plug-in that follows a norm is part of it: its own norm of vectors must stay, and its hook run."""
    torch.manual_seed(0)
    network = build_network(row, in_channels=3, num_classes=4, width=1 / 16)
    network = (attach(network, DSM, at=at) if at else network).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # timm's last norm of every block starts at zero
            parameter.uniform_(0.1, 0.5) if parameter.ndim == 1 else parameter.normal_(std=0.1)
    image, state = torch.rand(1, 3, 64, 64), network.state_dict()
    before, parameters = network(image), [id(each) for each in network.parameters()]
    of_maps = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    of_vectors = sum(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    distributed.synchronise_norms(network)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == of_maps > 50
    assert sum(isinstance(module, nn.BatchNorm1d) for module in network.modules()) == of_vectors == 3
    assert list(network.state_dict()) == list(state)
    assert [id(each) for each in network.parameters()] == parameters  # an optimiser may hold them already
    assert torch.equal(network(image), before)


def test_synchronised_norms_keep_timms_activations():
    norm = BatchNormAct2d(2, act_layer=nn.ReLU).eval()
    image = torch.randn(1, 2, 4, 4)
    before = norm(image)
    distributed.synchronise_norms(norm)
    assert isinstance(norm, nn.SyncBatchNorm) and torch.equal(norm(image), before) and before.min() == 0


# ---------------------------------------------------------------- two and three processes


@pytest.fixture(scope="module")
def alone():
    return measured()


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """What each of three processes has found, and how they ended together."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.raises(Exception) as raised, pytest.MonkeyPatch.context() as patched:
        patched.delenv("OMP_NUM_THREADS", raising=False)
        patched.setattr(torch, "get_num_threads", lambda: 7)
        distributed.launch(together, 3, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)], raised.value


def test_gradients_are_those_of_one_process_with_the_whole_batch(several, alone):
    for found in several[0]:
        assert found["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-6, atol=1e-9)


def test_scores_are_exactly_those_of_one_process(several, alone):
    for found in several[0]:
        assert found["scores"] == alone["scores"]
    assert 0.1 < alone["scores"]["three"] < alone["scores"]["two"] < 1
    assert 0.1 < alone["scores"]["coco"]["AP"] < 1 and 0 < alone["scores"]["top2"] < 1


def test_all_evaluate_with_the_first_ones_statistics(several):
    assert [found["buffers"] for found in several[0]] == [several[0][0]["buffers"]] * len(several[0])
    assert several[0][0]["buffers"] == pytest.approx([0.1, 1])


def test_threads_are_shared_and_what_the_first_says_is_heard(several):
    count = len(several[0])
    assert [found["threads"] for found in several[0]] == [7 // count] * count
    assert [found["told"] for found in several[0]] == ["told by 0"] * count
    refused = ["InputError('this folder is taken')", *["StoppedError('')"] * (count - 1)]
    assert [found["refused"] for found in several[0]] == refused


def test_one_that_fails_ends_all_with_its_own_line(several):
    found, error = several
    assert (type(error), str(error)) == (InputError, "this image cannot be read")
    for each in found:
        with pytest.raises(ProcessLookupError):
            os.kill(each["pid"], 0)


def test_one_that_is_killed_ends_all_with_a_line_about_it():
    with pytest.raises(
        StoppedError, match=r"^process 2 of 2 was killed \(signal 9.*the run can go on with --resume$"
    ):
        distributed.launch(killed, 2)


# ---------------------------------------------------------------- whole runs, as they are typed

TRAIN = [sys.executable, "-c", "from dsnet_med.cli import main; main()", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _typed(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _killed(command, run):
    """What a run says of which the second process is killed after a checkpoint."""
    process = subprocess.Popen(command, cwd=run.parent, stderr=subprocess.PIPE, text=True)
    while not (run / "checkpoints" / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    ranks = [each for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1
    return said.splitlines()[-1]


@pytest.mark.slow
def test_killed_or_typed_in_another_way_a_run_has_the_same_bytes(store, tmp_path):
    settings = [f"--set={name}={value}" for name, value in NARROW.items() if name != "iterations"]
    given = ["--method=fcn_dsm", f"--data={store}", "--device=cpu", "--iterations=12", *settings]
    given += ["--set=checkpoint_every=2"]
    told = _typed([*TRAIN, *given, "--out=whole", "--devices=2"], tmp_path)
    assert told.count("best Dice") == 1
    said = _killed([*TRAIN, *given, "--out=killed", "--devices=2"], tmp_path / "killed")
    assert said.startswith("dsnet-med: process 2 of 2 was killed (signal 9")
    _typed([*TRAIN, "--out=killed", "--resume", "--devices=2", "--device=cpu"], tmp_path)
    shutil.copytree(tmp_path / "whole" / "configs", tmp_path / "bundle" / "configs")
    bundle = ["-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"]
    _typed([*TORCHRUN, *bundle], tmp_path / "bundle")
    for name in ("models/model.pt", "checkpoints/last.pt"):
        found = {run: (tmp_path / run / name).read_bytes() for run in ("whole", "killed", "bundle")}
        assert found["killed"] == found["whole"]
        assert found["bundle"] == found["whole"]
    steps = [json.loads(line)["iteration"] for line in (tmp_path / "killed" / "metrics.jsonl").open()]
    assert steps == sorted(steps) and max(steps) == 12
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["processes"] == 2
