"""Compressed DICOM files, damaged at random: what reading, `infer`, `preprocess` and `serve` make of them."""

import atexit
import http.client
import io
import random
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from made import images, multi_frame, write
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from scene import COMMAND, Scene, dsnet, make_scene, surroundings

from dsnet_med.dicom.read import read_series
from dsnet_med.dicom.series import find_series
from dsnet_med.errors import InputError

SYNTAXES = {
    "jpeg": JPEGBaseline8Bit,
    "jpeg-extended": JPEGExtended12Bit,
    "jpeg-lossless": JPEGLossless,
    "jpeg-lossless-sv1": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-ls-near": JPEGLSNearLossless,
    "jpeg-2000-lossless": JPEG2000Lossless,
    "jpeg-2000": JPEG2000,
    "rle": RLELossless,
    "deflated": DeflatedExplicitVRLittleEndian,
}
_EIGHT_BITS = ("jpeg", "jpeg-extended")
_SHAPE, _SLICES = (40, 32), 3


# ---------------------------------------------------------------- good files


def good(syntax: str, *, frames: bool = False, seed: int = 0) -> list[Dataset]:
    """A series of three slices in this syntax; with `frames` as one multi-frame object."""
    dtype = np.uint8 if syntax in _EIGHT_BITS else np.uint16
    made = images(_SLICES, shape=_SHAPE, dtype=dtype, seed=seed, RescaleIntercept=0)
    codes = []
    for index, one in enumerate(made):
        pixels = _picture(index, seed).astype(dtype) if dtype == np.uint16 else _picture(index, seed) // 16
        one.PixelData = pixels.astype(dtype).tobytes()
        one.BitsStored, one.HighBit = (8, 7) if dtype == np.uint8 else (12, 11)
        codes.append(_code(syntax, pixels.astype(dtype)))
    made = [multi_frame(made)] if frames else made
    for one, own in zip(made, [codes] if frames else [[code] for code in codes], strict=True):
        one.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        if syntax != "deflated":
            one.PixelData = encapsulate(own)
            one["PixelData"].VR = "OB"
    return made


def _picture(index: int, seed: int) -> NDArray[np.int64]:
    y, x = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
    noise = np.random.default_rng((seed, index)).normal(0, 30, _SHAPE)
    values = 1500 + 1200 * np.sin(x / 5 + index) * np.cos(y / 7) + noise
    return np.asarray(values).clip(0, 4095).astype(np.int64)


def _code(syntax: str, pixels: NDArray[Any]) -> bytes:
    """The codestream of one picture."""
    if syntax in ("jpeg", "jpeg-extended"):
        code = _by_pillow(pixels, "JPEG", quality=90)
        return code.replace(b"\xff\xc0", b"\xff\xc1", 1) if syntax == "jpeg-extended" else code
    if syntax in ("jpeg-2000", "jpeg-2000-lossless"):
        return _by_pillow(pixels, "JPEG2000", irreversible=syntax == "jpeg-2000", no_jp2=True)
    if syntax in ("jpeg-lossless", "jpeg-lossless-sv1"):
        return _by_gdcm(pixels, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    if syntax == "deflated":
        return b""
    one = images(1, shape=_SHAPE, dtype=pixels.dtype, BitsStored=12, HighBit=11)[0]
    one.PixelData = pixels.tobytes()
    options: dict[str, Any] = {"jls_error": 2} if syntax == "jpeg-ls-near" else {}
    one.compress(SYNTAXES[syntax], **options)
    return next(generate_frames(one.PixelData, number_of_frames=1))


def _by_pillow(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _by_gdcm(pixels: NDArray[Any], syntax: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        one = images(1, shape=_SHAPE, dtype=pixels.dtype, BitsStored=12, HighBit=11)[0]
        one.PixelData = pixels.tobytes()
        [file] = write(Path(folder), [one])
        reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(file))
        reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        change.Change()
        elements = change.GetOutput().GetDataElement()
        fragment = elements.GetSequenceOfFragments().GetFragment(0)
        return bytes(fragment.GetByteValue().GetBuffer().encode("utf-8", "surrogateescape"))


# ---------------------------------------------------------------- damage


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file with something in it changed, most often in the head of a codestream."""
    spoilt = bytearray(content)
    pixels = max(content.rfind(b"\xe0\x7f\x10\x00"), 132)
    kind = chance.choice(("head", "head", "head", "any", "pixels", "cut", "insert", "delete", "big", "many"))
    low, high = {"head": (pixels, min(pixels + 250, len(content))), "any": (132, len(content))}.get(
        kind, (pixels, len(content))
    )
    at = chance.randrange(low, high)
    if kind == "cut":
        del spoilt[at:]
    elif kind == "insert":
        spoilt[at:at] = chance.randbytes(chance.choice((1, 1, 2, 40)))
    elif kind == "delete":
        del spoilt[at : at + chance.choice((1, 1, 2, 40))]
    elif kind == "big":
        spoilt[at : at + 4] = chance.choice(
            (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xd9\xff\xda")
        )
    else:
        for _ in range(1 if kind == "head" else chance.choice((1, 2, 8, 30))):
            spoilt[chance.randrange(low, high)] = chance.randrange(256)
    return bytes(spoilt)


@dataclass(frozen=True)
class Damaged:
    """A folder of a series with one damaged file, and its pixels before."""

    folder: Path
    truth: NDArray[Any]


def damaged_series(syntax: str, count: int, seed: int, folder: Path) -> Iterator[Damaged]:
    """So many, half of them multi-frame; each in a folder of its own."""
    chance = random.Random(f"{syntax} {seed}")
    models = {}
    for frames in (False, True):
        files = write(folder / f"model-{frames}", good(syntax, frames=frames, seed=seed))
        [series] = find_series(files)
        models[frames] = [file.read_bytes() for file in files], read_series(series).voxels
        shutil.rmtree(folder / f"model-{frames}")
    for number in range(count):
        contents, truth = models[number % 2 == 1]
        place = folder / f"{syntax}-{number:04d}"
        place.mkdir()
        worst = chance.randrange(len(contents))
        for index, content in enumerate(contents):
            made = damaged(content, chance) if index == worst else content
            (place / f"IM{index + 1:03d}").write_bytes(made)
        yield Damaged(place, truth)


# ---------------------------------------------------------------- what becomes of it


def judged(one: Damaged) -> str:
    """How reading it in this process ends: noticed, harmless, silent, or raw with what was raised."""
    try:
        every = find_series(sorted(one.folder.iterdir()))
        usable = [series for series in every if series.reason is None]
        if not usable or len(every) > 1 or sum(series.images for series in usable) != _SLICES:
            return "noticed"
        volume = read_series(usable[0], 0)
    except InputError as error:
        return "noticed" if "\n" not in str(error) and len(str(error)) < 1000 else f"raw: {str(error)[:200]!r}"
    except Exception as error:
        return f"raw: {type(error).__name__}: {error}"
    if np.array_equal(volume.voxels, one.truth):
        return "harmless"
    return "noticed" if volume.notes else "silent"


@cache
def _scene() -> Scene:
    """Small data and a network, for as long as this process lives."""
    folder = tempfile.mkdtemp(prefix="dsnet_med_dicom_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_scene(Path(folder), until="run")


def fuzz_dicom(syntax: str, count: int, seed: int = 0, scene: Scene | None = None) -> dict[str, int]:
    """`count` damaged series through reading, `infer` (in one folder, beside good ones), `serve`, `preprocess`.

    How many were `tried`; how many read as other pixels, `silent`; how many ended in a `raw` line; how much was
    `lost`: good cases of the same command, and damaged ones that nothing was said of; how often one `died`.
    """
    scene, found = scene or _scene(), Counter(tried=count, silent=0, raw=0, lost=0, died=0)
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        tree.mkdir()
        every = list(damaged_series(syntax, count, seed, tree))
        found.update(judged(one).split(":")[0] for one in every)
        _infer(scene, syntax, tree, Path(temporary), found)
        _serve(scene, syntax, every, Path(temporary), found)
        _preprocess(scene, every, Path(temporary), found)
    return {name: found[name] for name in ("tried", "silent", "raw", "lost", "died")}


def _count_raw(said: str, found: Counter[str]) -> None:
    """Lines that no user should see."""
    lines = [line.rpartition("\r")[2].strip() for line in said.splitlines()]
    told = re.compile(r"(note|failed|warning|dsnet-med|infer|preprocess|wrote|\d+ )\b|$")
    found["raw"] += sum(
        not told.match(line) or bool(re.search(r"\w(Error|Exception): ", line)) for line in lines
    )


def _infer(scene: Scene, syntax: str, tree: Path, work: Path, found: Counter[str]) -> None:
    cases = {path.name for path in tree.iterdir()}
    for name in ("a_good", "z_good"):
        write(tree / name, good(syntax, frames=name == "z_good", seed=9))
    shutil.copy(next(scene.images.iterdir()), tree / "volume.nii.gz")
    ended = dsnet("infer", "--model", scene.run, tree, "--out", work / "masks", timeout=3600)
    found["died"] += ended.code not in (0, 1)
    _count_raw(ended.said, found)
    found["lost"] += sum(
        not (work / "masks" / f"{name}.nii.gz").is_file() for name in ("a_good", "z_good", "volume")
    )
    told = set(re.findall(r"failed: (\S+): ", ended.said))
    found["lost"] += sum(
        case not in told and not (work / "masks" / f"{case}.nii.gz").is_file() for case in cases
    )
    for name in ("a_good", "z_good"):
        shutil.rmtree(tree / name)
    (tree / "volume.nii.gz").unlink()


def _serve(scene: Scene, syntax: str, every: Sequence[Damaged], work: Path, found: Counter[str]) -> None:
    log = work / "server.log"
    command = [*COMMAND, "serve", "--model", str(scene.run), "--port", "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=surroundings({"TMPDIR": str(work)})
        ) as process,
    ):
        try:
            line = process.stdout.readline().decode() if process.stdout else ""
            port = re.search(r":(\d+)", line.partition("//")[2])
            for one in every:
                status, answer = _sent(int(port[1]) if port else 0, sorted(one.folder.iterdir()))
                found["raw"] += status not in (200, 400, 413, 415) or "\n" in answer.strip()
                found["died"] += status == 0
            files = write(work / "last", good(syntax, seed=9))
            found["lost"] += _sent(int(port[1]) if port else 0, files)[0] != 200
        finally:
            process.terminate()
    found["raw"] += "Traceback" in log.read_text(errors="replace")


def _sent(port: int, files: Sequence[Path]) -> tuple[int, str]:
    """Status and text of the answer to a zip of these files; status 0 where there is none."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/segment", body.getvalue(), {"Content-Type": "application/zip"})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, "" if answer.status == 200 else content.decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _preprocess(scene: Scene, every: Sequence[Damaged], work: Path, found: Counter[str]) -> None:
    """It takes no DICOM: such a file in place of a volume is refused, and the other cases are done."""
    raw = work / "raw"
    shutil.copytree(scene.raw, raw)
    volumes = sorted((raw / "RawData" / "Training" / "img").iterdir())
    for one, volume in zip(every, volumes[1:], strict=False):
        volume.write_bytes(next(one.folder.iterdir()).read_bytes())
    ended = dsnet("preprocess", "synapse", "--source", raw, "--out", work / "store")
    found["died"] += ended.code not in (1, 2)
    _count_raw(ended.said, found)
    found["lost"] += not list((work / "store").rglob("*.bin"))
