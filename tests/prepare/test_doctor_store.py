"""The data doctor on a store, sound and damaged."""

import json
import shutil
from pathlib import Path

import pytest

from dsnet_med.errors import InputError
from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.doctor_store import examine_store
from dsnet_med.prepare.findings import Finding
from dsnet_med.prepare.recipe import load_recipe
from dsnet_med.prepare.store import Store
from dsnet_med.seal import sealed

CASES = ["0001", "0002", "0005", "0006"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    list(make_synapse(folder / "raw", cases=4, seed=0, size=(64, 64, 16)))
    results = list(convert(load_recipe("synapse"), folder / "raw", folder / "store", workers=1))
    assert [result.error for result in results] == [None] * 4
    return folder / "store"


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def findings(store: Path) -> list[Finding]:
    examined = list(examine_store(store))
    assert [each.case for each in examined] == [*CASES, ""]
    return [finding for each in examined for finding in each.findings if finding.kind != "source"]


def edit_manifest(store: Path, case: str, **fields: object) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    for entry in manifest["cases"]:
        if entry["id"] == case:
            entry.update(fields)
            (store / "cases" / f"{case}.json").write_text(json.dumps(sealed(entry)))
    (store / "manifest.json").write_text(json.dumps(sealed(manifest)))


def test_a_sound_store_has_no_findings(sound: Path) -> None:
    assert findings(sound) == []


def test_a_short_and_a_lost_data_file_are_both_reported(store: Path) -> None:
    file = store / "cases" / "0001.bin"
    file.write_bytes(file.read_bytes()[:-1])
    (store / "cases" / "0005.bin").unlink()
    assert [(each.case, each.kind, each.severity) for each in findings(store)] == [
        ("0001", "damaged", "error"),
        ("0005", "damaged", "error"),
    ]


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_bit_that_flipped_is_found(store: Path, part: str) -> None:
    entry, file = Store.open(store).cases["0002"], store / "cases" / "0002.bin"
    content = bytearray(file.read_bytes())
    place = 3 * entry.slice_nbytes + entry.unit.fields[part][1]  # of the fourth slice
    content[place] ^= 1
    file.write_bytes(content)
    (found,) = findings(store)
    assert (found.case, found.kind, found.severity) == ("0002", "damaged", "error")
    assert "0002.bin: slice 3 is not what was stored" in found.message


def test_exchanged_data_files_are_found(store: Path) -> None:
    first, second = (store / "cases" / f"{case}.bin" for case in ("0001", "0002"))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert [(each.case, each.kind) for each in findings(store)] == [("0001", "damaged"), ("0002", "damaged")]


def test_a_case_in_two_splits_by_subject(store: Path) -> None:
    edit_manifest(store, "0001", subject="0005")
    assert [(each.case, each.kind) for each in findings(store)] == [("0005", "overlap")]


def test_duplicate_images(store: Path) -> None:
    shutil.copy(store / "cases" / "0001.bin", store / "cases" / "0002.bin")
    first = Store.open(store).cases["0001"]
    sums = {"tables_crc32": first.tables_crc32, "codes": first.codes}
    edit_manifest(store, "0002", **sums)
    found = findings(store)
    assert ("duplicate", "0001") in {(each.kind, each.case) for each in found}
    assert "0001 (test), 0002 (test)" in found[-1].message


def test_an_entry_that_differs_from_the_manifest(store: Path) -> None:
    file = store / "cases" / "0006.json"
    entry = json.loads(file.read_text())
    entry["split"] = "test"
    for written in (entry, sealed(entry)):  # damaged, and another
        file.write_text(json.dumps(written))
        assert [(each.case, each.kind) for each in findings(store)] == [("0006", "damaged")]


def test_a_stale_recipe(store: Path) -> None:
    edit_manifest(store, "0006", recipe_hash="0" * 64)
    (finding,) = findings(store)
    assert finding.case == "0006" and "another version of the recipe" in finding.message


def test_a_leftover_file_is_a_warning(store: Path) -> None:
    (store / "cases" / "9999.bin").write_bytes(b"")
    (finding,) = findings(store)
    assert (finding.severity, finding.kind) == ("warning", "leftover") and "9999.bin" in finding.message


def test_failed_cases_are_errors(tmp_path: Path) -> None:
    list(make_synapse(tmp_path / "raw", cases=3, seed=0, size=(64, 64, 16)))
    (tmp_path / "raw/RawData/Training/img/img0001.nii.gz").write_bytes(b"broken")
    list(convert(load_recipe("synapse"), tmp_path / "raw", tmp_path / "store", workers=1))
    found = [finding for each in examine_store(tmp_path / "store") for finding in each.findings]
    failed = [finding for finding in found if finding.kind == "failed"]
    assert [(each.severity, each.case) for each in failed] == [("error", "0001")]
    assert "img0001.nii.gz" in failed[0].message


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a store"):
        next(examine_store(tmp_path))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="not the manifest of a store"):
        next(examine_store(tmp_path))
