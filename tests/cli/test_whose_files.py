"""Commands that write folders replace what they wrote themselves, and nothing of anybody else's."""

import errno
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from dsnet_med.cli import steps
from dsnet_med.cli.importing import import_checkpoint
from dsnet_med.engine.run import require_unused
from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.files import output_error
from dsnet_med.prepare import store


def test_phantoms_never_lie_among_real_files(tmp_path: Path) -> None:
    make = {"cases": 2, "seed": 0, "size": "32x32x8", "oblique": False}
    scan = tmp_path / "real" / "RawData" / "Training" / "img" / "img0001.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(b"a patient")
    with pytest.raises(InputError, match="RawData is there already, and is no phantom"):
        steps.phantom("synapse", tmp_path / "real", **make)
    assert scan.read_bytes() == b"a patient"
    for _ in range(2):
        steps.phantom("synapse", tmp_path / "new", **make)
    with pytest.raises(InputError, match="val is there already"):
        (tmp_path / "images" / "val").mkdir(parents=True)
        steps.phantom("imagenet", tmp_path / "images", cases=2, seed=0, size="32x32", oblique=False)


def test_a_store_never_replaces_another_manifest(tmp_path: Path) -> None:
    steps.phantom("synapse", tmp_path / "raw", cases=2, seed=0, size="32x32x8", oblique=False)
    (tmp_path / "out").mkdir()
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text('{"files": ["mine"]}')
    with pytest.raises(InputError, match=r"manifest\.json is there already, and was not written by preprocess"):
        steps.preprocess("synapse", tmp_path / "raw", tmp_path / "out", workers=1)
    assert json.loads(manifest.read_text()) == {"files": ["mine"]}
    manifest.unlink()
    for _ in range(2):
        steps.preprocess("synapse", tmp_path / "raw", tmp_path / "out", workers=1)


def test_a_disk_too_full_for_the_manifest_does_not_hide_which_cases_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps.phantom("synapse", tmp_path / "raw", cases=3, seed=0, size="32x32x8", oblique=False)
    first = min((tmp_path / "raw").rglob("img*.nii.gz"))
    first.write_bytes(b"no volume")

    def full(path: Path, *_: object, **__: object) -> None:
        raise output_error(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(InputError, match=r"manifest\.json: no space left on the device"):
        steps.preprocess("synapse", tmp_path / "raw", tmp_path / "out", workers=1)
    assert f"failed: {first.name[3:7]}: " in capsys.readouterr().err
    monkeypatch.undo()
    with pytest.raises(CasesFailedError):
        steps.preprocess("synapse", tmp_path / "raw", tmp_path / "out", workers=1)


@pytest.mark.parametrize("name", ["summary.json", "configs/train.yaml", "configs/metadata.json"])
def test_a_run_never_replaces_other_files(tmp_path: Path, name: str) -> None:
    require_unused(tmp_path / "run")
    (tmp_path / "run" / "configs").mkdir(parents=True)
    (tmp_path / "run" / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match=rf"{name} is there already, and was not written by train"):
        require_unused(tmp_path / "run")


def test_imported_weights_never_replace_a_file(tmp_path: Path) -> None:
    save_file({}, tmp_path / "there.safetensors")
    with pytest.raises(InputError, match="is there already"):
        import_checkpoint(tmp_path / "any.pth", tmp_path / "there.safetensors", method="fcn", num_classes=9)
