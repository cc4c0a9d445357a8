"""A run and a bundle (the same folder with its configurations as JSON) under MONAI's own functions."""

import contextlib
import io
import json
import logging
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import (
    ConfigWorkflow,
    ckpt_export,
    load,
    onnx_export,
    run_workflow,
    trt_export,
    verify_net_in_out,
)
from monai.bundle import __main__ as monai_commands

from dsnet_med import Predictor
from dsnet_med.cli.bundle import bundle_command, monai_command
from dsnet_med.engine.export.bundle import export
from dsnet_med.errors import InputError, root_cause
from dsnet_med.inference.record import RECORD
from dsnet_med.networks.checkpoint import read_checkpoint
from dsnet_med.yaml_core import read_yaml

SCHEMA = Path(__file__).parents[1] / "data" / "meta_schema_20240725.json"
DOCS = Path(__file__).parents[2] / "docs" / "bundle.md"
ALIKE = (("inference",), ("train",), ("train", "evaluate"))


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with its configurations as JSON, as an export has them."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", RECORD))
    for file in (folder / "configs").glob("*.yaml"):
        file.with_suffix(".json").write_text(json.dumps(read_yaml(file), indent=2))
        file.unlink()
    return folder


@pytest.fixture(params=["run", "bundle"])
def root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of either kind, in which one works."""
    folder: Path = request.getfixturevalue(request.param)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    level = logging.root.level
    yield folder
    logging.root.setLevel(level)


def _config(root: Path, name: str) -> str:
    kind = "json" if (root / "configs" / "inference.json").is_file() else "yaml"
    return f"configs/{name}.{kind}"


def _said(error: BaseException) -> str:
    """What the first of errors that libraries wrap says."""
    cause = root_cause(error)
    assert isinstance(cause, InputError)
    return str(cause)


@pytest.mark.parametrize("names", ALIKE)
def test_all_workflows_have_the_properties_that_monai_requires(names: tuple[str, ...], root: Path) -> None:
    files = [_config(root, name) for name in names]
    kind = "train" if names == ("train",) else "inference"
    for where in ({}, {"dataset_dir": "nowhere"}):  # though there are no inputs, and there is no store
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **where)
        workflow.initialize()
        try:
            assert workflow.check_properties() == []
        finally:
            workflow.finalize()


def test_a_store_that_is_not_there_is_told_when_the_bundle_evaluates(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    with pytest.raises(RuntimeError) as raised:  # MONAI's own, around ours
        bundle_command(["run", "evaluating", "--trust", "--dataset_dir", "nowhere"])
    assert "nowhere: not a store" in _said(raised.value)


def test_the_network_gives_what_the_metadata_say(root: Path) -> None:
    meta, config = "configs/metadata.json", _config(root, "inference")
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config)
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, any=20)
    slices = {"_meta_#network_data_format#inputs#image#spatial_shape": ["*", "*"]}
    verify_net_in_out(
        net_id="network_def", meta_file=meta, config_file=_config(root, "train"), any=64, **slices
    )


@pytest.mark.parametrize("kind", ["inference", "train"])
def test_monai_loads_the_weights_of_a_bundle(kind: str, bundle: Path) -> None:
    network = load(
        bundle.name, bundle_dir=str(bundle.parent), workflow_type=kind, source="github", repo="a/b/c"
    )
    trained, loaded = read_checkpoint(bundle / "models" / "model.pt"), network.state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name].cpu(), trained[name]) for name in trained)


def test_a_workflow_infers_a_list_of_files_and_gives_integers(root: Path, raw: Path, tmp_path: Path) -> None:
    image = raw / "RawData" / "Training" / "img" / "img0002.nii.gz"
    workflow = ConfigWorkflow(_config(root, "inference"), workflow_type="inference", logging_file=False)
    workflow.dataset_dir = [{"image": str(image)}]
    workflow.parser["output_dir"] = str(tmp_path)
    workflow.initialize()
    workflow.run()
    wanted = Predictor.from_run(root).predict(image)
    mask = nib.load(tmp_path / "img0002.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), wanted.voxels)
    # As viewers run it, which leave out what loads and saves:
    item = workflow.dataset[0]
    pred = workflow.inferer(item["image"][None], workflow.network_def.eval())[0]
    post = workflow.postprocessing.transforms[:-1]
    result = {**item, "pred": pred}
    with torch.no_grad():
        for step in post:
            result = step(result)
    assert result["pred"].dtype == torch.uint8 and result["pred"].shape == (1, *mask.shape)


def test_a_folder_without_inputs_is_one_line(root: Path) -> None:
    with pytest.raises(RuntimeError) as typed:
        bundle_command(["run", "--trust"])
    assert _said(typed.value) == "inputs: no such file or folder (--dataset_dir says what to segment)"
    with pytest.raises(RuntimeError) as raised:
        run_workflow(config_file=_config(root, "inference"), workflow_type="inference", logging_file=False)
    assert "no such file or folder" in _said(raised.value)


def test_ckpt_export_is_right_at_every_size_or_refuses(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root := bundle)
    config, file = _config(root, "inference"), tmp_path / "model.ts"
    ckpt_export(config_file=config, filepath=str(file))
    script, network = torch.jit.load(file), Predictor.from_run(root).models[0]
    for shape in ((1, 1, 2, 64, 64), (2, 1, 3, 40, 90)):
        image = torch.rand(shape)
        with torch.no_grad():
            got = script(image)
        for volume, logits in zip(image, got, strict=True):
            wanted = network.logits(volume.transpose(0, 1)).transpose(0, 1)
            torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    files = {"inference.json": "", "metadata.json": ""}
    torch.jit.load(file, _extra_files=files)
    assert json.loads(files["inference.json"])["class_names"][5] == "liver"
    with pytest.raises(InputError, match="of one shape alone"):
        ckpt_export(config_file=config, filepath=str(file), use_trace=True)


@pytest.mark.slow
def test_onnx_and_tensorrt_are_refused_for_volumes_and_right_for_slices(bundle: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    given: Mapping[str, Any] = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "ckpt_file": str(bundle / "models" / "model.pt"),
        "filepath": str(tmp_path / "model.onnx"),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        with pytest.raises(Exception, match="step 1") as raised:  # torch.onnx's own, around ours
            onnx_export(net_id="network_def", **given)
        assert "one shape alone" in _said(raised.value)
        onnx_export(net_id="slice_network", input_shape=[1, 1, 64, 64], **given)
    session = onnxruntime.InferenceSession(given["filepath"], providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    image = torch.rand(1, 1, 64, 64)
    wanted = Predictor.from_run(bundle).models[0].logits(image)
    np.testing.assert_allclose(session.run(None, {name: image.numpy()})[0], wanted, atol=1e-4)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        session.run(None, {name: np.zeros((1, 1, 80, 64), np.float32)})
    assert not (tmp_path / "model.ts").exists()
    with pytest.raises(Exception):  # noqa: B017 -- without TensorRT whatever MONAI says
        trt_export(net_id="network_def", **{**given, "filepath": str(tmp_path / "model.ts")})
    assert not (tmp_path / "model.ts").exists()


ROWS = re.findall(r"^\| `(.+?)` \| (\d) \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as `dsnet-med export` writes it, without the forms that are graphs."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    export([run], folder, ["bundle"])
    return folder


def test_the_page_lists_every_command_of_monai() -> None:
    assert len(ROWS) > 20
    commands = {
        name for name in vars(monai_commands) if name.islower() and callable(vars(monai_commands)[name])
    }
    text = DOCS.read_text(encoding="utf-8")
    assert not [name for name in commands if f"monai.bundle {name}" not in text]


def _typed(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> tuple[int, str]:
    """The exit status of a command, and what it says; in this process, which has MONAI loaded."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", words[2:])
    caplog.set_level(logging.INFO)
    ended, error = 0, None
    try:
        if words[0] == "monai":
            monai_command(words[1:])
        else:
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except (Exception, SystemExit) as raised:
        error = root_cause(raised)
        ended = 2 if words[0] == "monai" and isinstance(error, InputError) else 1
        if isinstance(raised, SystemExit):
            ended = int(raised.code or 0)
    streams = capfd.readouterr()
    return ended, f"{streams.out}{streams.err}{caplog.text}{error}"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["run", "exported"])
@pytest.mark.parametrize(("command", "code", "outcome"), ROWS, ids=[f"{k}" for k in range(len(ROWS))])
def test_each_command_of_the_page_does_what_it_says(
    command: str,
    code: str,
    outcome: str,
    folder: str,
    request: pytest.FixtureRequest,
    raw: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(request.getfixturevalue(folder), root)
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    volume = raw / "RawData" / "Training" / "img" / "img0001.nii.gz"
    places = {
        "VOLUMES": volume,
        "STORE": store,
        "SCHEMA.json": tmp_path / "schema.json",
        "OUT": tmp_path / "out",
    }
    (tmp_path / "out").mkdir()
    for name, place in places.items():
        command = re.sub(rf"\b{re.escape(name)}\b", str(place), command)
    if folder == "run":
        command = re.sub(r"configs/(inference|train|evaluate)\.json", r"configs/\1.yaml", command)
    monkeypatch.chdir(root)
    ended, said = _typed(shlex.split(command), monkeypatch, caplog, capfd)
    assert ended == int(code), said
    if told := re.match(r"(?:[^`]*)`([^`]+)`", outcome):
        assert told[1] in said, said
    if "masks" in outcome:
        wanted = Predictor.from_run(root).predict(volume).voxels
        mask = nib.load(tmp_path / "out" / volume.name)
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), wanted)
    if code != "0":
        assert not list((tmp_path / "out").iterdir())
