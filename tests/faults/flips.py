"""Bits that flip in what lies on disk: in a store, in weights, in results."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scene import Scene, dsnet
from tally import Tally, flip_bit

from dsnet_med.engine.data import open_store
from dsnet_med.errors import InputError
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.networks.checkpoint import read_pickle
from dsnet_med.prepare.store import Store

EVERY = 20  # of so many flips one goes through the command line as well


def flip_store(scene: Scene, work: Path, count: int, seed: int = 0) -> Iterator[Tally]:
    """Flip a bit of a random file of the store: do train, check and preprocess notice?"""
    read, commands = (
        Tally("bit flip in a store, read as `train` does"),
        Tally("the same, `check`, then `preprocess` again"),
    )
    chance, store = random.Random(seed), work / "store"
    shutil.copytree(scene.store, store)
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    sizes = [path.stat().st_size for path in files]
    good = _all_slices(store)
    for number in range(count):
        # Half of them by size, as chance has it; half by file, so that the small ones have their share.
        file = chance.choices(files, sizes)[0] if number % 2 else chance.choice(files)
        kept = file.read_bytes()
        where = flip_bit(file, chance)
        read.add(*_noticed(lambda: _all_slices(store), good, where))
        if number % EVERY == 0:
            _check_and_mend(commands, scene, store, file, kept, where)
        file.write_bytes(kept)
    yield from (read, commands)


def _check_and_mend(tally: Tally, scene: Scene, store: Path, file: Path, kept: bytes, where: str) -> None:
    checked, again = dsnet("check", store), dsnet(*scene.preprocess(store))
    if checked.raw or again.raw:
        tally.add("raw", f"{where}: {checked.said[-200:]} {again.said[-200:]}")
    elif again.code or file.read_bytes() != kept:
        if file.suffix == ".json" and not again.code and json.loads(file.read_bytes()) == json.loads(kept):
            tally.add("harmless")
        else:
            tally.add("lost", f"{where}: preprocess exit {again.code}, mended: {file.read_bytes() == kept}")
    elif checked.code == 0:
        tally.add("silent", f"{where}: check exit 0")
    else:
        tally.add("noticed")


def _all_slices(path: Path) -> Any:
    """Everything that a training on the store can read of it."""
    open_store.cache_clear()
    store = Store.open(path)
    told = store.model_dump(mode="json", exclude={"path", "seen"})
    return told, [store.read_slice(name, k) for name, case in store.cases.items() for k in range(case.shape[0])]


def flip_weights(scene: Scene, work: Path, count: int, seed: int = 0) -> Iterator[Tally]:
    """Flip a bit of the weights or the state of a run: does loading it notice?"""
    run = work / "run"
    shutil.copytree(scene.run, run)
    chance = random.Random(seed)
    kinds: list[tuple[str, Callable[[], Any]]] = [
        ("models/model.pt", lambda: _weights(run)),
        ("models/model.safetensors", lambda: _weights(run)),
        ("checkpoints/last.pt", lambda: read_pickle(run / "checkpoints" / "last.pt")),
    ]
    for name, read in kinds:
        file, tally = run / name, Tally(f"bit flip in {name}")
        if file.is_file():
            kept, good = file.read_bytes(), read()
            for _ in range(count):
                where = flip_bit(file, chance)
                tally.add(*_noticed(read, good, where))
                file.write_bytes(kept)
            if name == "models/model.pt":
                where = flip_bit(file, chance)
                ended = dsnet("infer", "--model", run, scene.images, "--out", work / "masks")
                tally.add("raw" if ended.raw else "noticed" if ended.code else "silent", f"infer: {where}")
                file.write_bytes(kept)
            yield tally


def _weights(run: Path) -> Any:
    return load_model(run, trust=True).network.state_dict()


def flip_results(scene: Scene, work: Path, count: int, seed: int = 0) -> Iterator[Tally]:
    """Flip a bit of a file of scores: does `verify` notice?"""
    tally, chance, scores = Tally("bit flip in scores, `verify`"), random.Random(seed), work / "scores"
    shutil.copytree(scene.scores, scores)
    files = [path for path in sorted(scores.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for number in range(count):
        file = files[number % len(files)]
        kept = file.read_bytes()
        where = flip_bit(file, chance)
        tally.add(*_verified(scores, where, file, kept))
        file.write_bytes(kept)
    yield tally


def _verified(scores: Path, where: str, file: Path, kept: bytes) -> tuple[str, str]:
    ended = dsnet("verify", scores / "summary.json")
    if ended.raw:
        return "raw", f"{where}: {ended.said[-200:]}"
    if ended.code:
        return "noticed", ""
    if file.suffix == ".json" and json.loads(file.read_bytes()) == json.loads(kept):
        return "harmless", ""
    return "silent", where


def _noticed(read: Callable[[], Any], good: Any, where: str) -> tuple[str, str]:
    try:
        got = read()
    except InputError:
        return "noticed", ""
    except Exception as error:
        return "raw", f"{where}: {type(error).__name__}: {error}"
    return ("harmless", "") if _same(got, good) else ("silent", where)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
        )
    if isinstance(one, Sequence) and not isinstance(one, str | bytes):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
