"""A trial as a file: which arms are compared, on what, how often, and by which rule; `DIR/trial.yaml`.

It is written before anything is trained, and everything that the trial finds carries its hash. Run again, it
must say the same: more seeds and more arms extend it, anything else is another trial. It names no place: files
of one's own (plug-ins, rows) lie beside it in files/, and DIR/store.txt says where the store lies here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsnet_med.engine.arms import Arm
from dsnet_med.engine.data import reopen_store
from dsnet_med.engine.session import versions
from dsnet_med.errors import InputError, first_of, shown, unknown
from dsnet_med.files import read_text, sha256, write_text
from dsnet_med.inference.trust import remember, require_own
from dsnet_med.methods import method_row
from dsnet_med.networks.plugin_file import file_of, is_file
from dsnet_med.prepare.splits import fold_subjects
from dsnet_med.prepare.store import MANIFEST, Store
from dsnet_med.yaml_core import parse_yaml, yaml_text

TRIAL, SCHEMA = "trial.yaml", 1
_FILES, _STORE = "files", "store.txt"
_HEAD = (
    "# Written by `dsnet-med compare` before anything was trained. The results carry this file's hash: change "
    "nothing here.\n"
)
_PARTS = ("method", "plugin", "at", "counting")
# What scores.csv has of a run, by protocol; `dpcnet` scores all cases as one volume, and none by itself.
MEASURED = {
    "strict": ("dice", "hd95_mm", "assd_mm", "nsd"),
    "transunet": ("dice", "hd95_voxels"),
    "monai": ("dice", "hd95_mm"),
}
_GROWS = ("arms", "placebos", "seeds", "extended")


@dataclass(frozen=True)
class Cell:
    """One run of a trial: an arm with a seed and, where there are folds, one of them."""

    arm: str
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """What it is called in lists."""
        return f"{self.arm} seed {self.seed}" + ("" if self.fold is None else f" fold {self.fold}")


@dataclass(frozen=True)
class Trial:
    """What trial.yaml says.

    `folds` holds the subjects of each fold, none where the store's own split counts. `settings` are those of
    every arm; with `equal` the optimiser and the schedule are the baseline's, too. `placebos` says for an arm
    which arms are its placebos. `threads` is how many each cell computes with, on which its bits may depend.
    """

    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    store: Path
    recipe: str
    store_id: str
    manifest_sha256: str
    folds: tuple[tuple[str, ...], ...]
    settings: Mapping[str, Any]
    equal: bool
    primary: str
    margin: float
    threads: int
    placebos: Mapping[str, Sequence[str]]
    versions: Mapping[str, str]
    extended: tuple[str, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that every arm has the first seed before any has the second."""
        folds = range(len(self.folds)) if self.folds else [None]
        return [Cell(arm.name, seed, fold) for seed in self.seeds for fold in folds for arm in self.arms]

    def text(self) -> str:
        """The content of the file."""
        return _HEAD + yaml_text(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "arms": {arm.name: _described(arm) for arm in self.arms},
            "baseline": self.baseline,
            "placebos": {arm: list(own) for arm, own in self.placebos.items()},
            "seeds": list(self.seeds),
            "store": {"recipe": self.recipe, "id": self.store_id, "manifest_sha256": self.manifest_sha256},
            "folds": [list(subjects) for subjects in self.folds],
            "settings": dict(self.settings),
            "equal": self.equal,
            "primary": self.primary,
            "margin": self.margin,
            "threads": self.threads,
            "versions": dict(self.versions),
            "extended": list(self.extended),
        }


def _described(arm: Arm) -> dict[str, Any]:
    """An arm as the file has it: of files of one's own the name and the hash."""
    told: dict[str, Any] = {name: value for name in _PARTS if (value := getattr(arm, name))}
    for name, file in _own_files(arm).items():
        told[name] = told[name].replace(str(file), file.name)
        told[f"{name}_sha256"] = sha256(file)
    return told


def _own_files(arm: Arm) -> dict[str, Path]:
    """The files that an arm is made of, by the part that names them."""
    files = {
        name: file_of(text) for name in ("plugin", "counting") if (text := getattr(arm, name)) and is_file(text)
    }
    return files | ({"method": Path(arm.method)} if arm.method.endswith((".yaml", ".yml")) else {})


def _read_arm(folder: Path, name: str, told: Mapping[str, Any]) -> Arm:
    """An arm of the file, with its files where the trial keeps them."""
    kept = f"{folder.resolve() / _FILES}/"
    parts: dict[str, Any] = {part: told.get(part) for part in _PARTS}
    return Arm(
        name, **{part: f"{kept}{text}" if f"{part}_sha256" in told else text for part, text in parts.items()}
    )


def _keep_files(folder: Path, trial: Trial) -> None:
    """Copy the files of the arms into the trial's folder. Raises InputError where two have one name."""
    kept: dict[str, str] = {}
    for file in (file for arm in trial.arms for file in _own_files(arm).values()):
        digest = sha256(file)
        if kept.setdefault(file.name, digest) != digest:
            raise InputError(f"two different files are called {file.name}: rename one of them")
        if not (folder / _FILES / file.name).is_file():
            write_text(folder / _FILES / file.name, read_text(file))
    remember(folder / _FILES / name for name in kept)


def planned(
    arms: Sequence[Arm],
    store: Store,
    *,
    baseline: str,
    seeds: Sequence[int],
    folds: int,
    settings: Mapping[str, Any],
    equal: bool,
    primary: str,
    margin: float,
    threads: int,
    placebos: Mapping[str, Sequence[str]],
) -> Trial:
    """A new trial. Raises InputError for what cannot be compared."""
    names = [arm.name for arm in arms]
    tasks = {arm.name: method_row(arm.method)["method_card"].get("task", "organs") for arm in arms}
    if strange := [name for name, task in tasks.items() if task != "organs"]:
        raise InputError(f"got the arm {strange[0]}, a row of {tasks[strange[0]]}: a trial segments organs")
    if baseline not in names:
        raise InputError(f"got --baseline {baseline}, wanted one of the arms: {', '.join(names)}")
    if len(names) < 2:
        raise InputError(f"got one arm, {names[0]}: give at least two with --methods, or --placebos")
    measures = [
        measure if protocol == "strict" else f"{measure}_{protocol}"
        for protocol, own in MEASURED.items()
        for measure in own
    ]
    if primary not in measures:
        raise unknown("primary measure", primary, measures)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"got --seeds {','.join(map(str, seeds))}: give each seed once")
    return Trial(
        tuple(arms),
        baseline,
        tuple(seeds),
        store.path.resolve(),
        store.recipe_id,
        store.id,
        sha256(store.path / MANIFEST),
        _folds(store, folds),
        settings,
        equal,
        primary,
        margin,
        threads,
        placebos,
        versions(),
    )


def again(trial: Trial) -> Trial:
    """A trial that was read, with the store and the versions as they are now. Raises InputError."""
    store = reopen_store(str(trial.store))
    return replace(trial, store_id=store.id, manifest_sha256=sha256(store.path / MANIFEST), versions=versions())


def _folds(store: Store, count: int) -> tuple[tuple[str, ...], ...]:
    """The subjects of `count` folds of the cases to learn from: the store's own where it has as many."""
    if not count:
        if not store.cases_of("test"):
            folds = len(store.folds) or 5
            raise InputError(f"{store.path} has no test cases to compare on: make folds, --folds {folds}")
        return ()
    if count == len(store.folds):
        return store.folds
    subjects = {case.subject for case in (*store.cases_of("train"), *store.cases_of("val"))}
    if not 2 <= count <= len(subjects) // 2:
        raise InputError(
            f"got --folds {count}, wanted 2 to {len(subjects) // 2}: the store has {len(subjects)} subjects to "
            "learn from, and a fold needs two at least"
        )
    return fold_subjects(subjects, count)


def read_trial(folder: Path) -> Trial:
    """The trial of a folder. Raises InputError where its trial.yaml is none."""
    file = folder / TRIAL
    try:
        told = parse_yaml(read_text(file))
        if told["schema"] != SCHEMA:
            raise InputError(f"{file}: of schema {shown(told['schema'])}, wanted {SCHEMA}")
        return Trial(
            tuple(_read_arm(folder, name, arm) for name, arm in told["arms"].items()),
            told["baseline"],
            tuple(told["seeds"]),
            Path(read_text(folder / _STORE).strip()),
            told["store"]["recipe"],
            told["store"]["id"],
            told["store"]["manifest_sha256"],
            tuple(tuple(fold) for fold in told["folds"]),
            told["settings"],
            told["equal"],
            told["primary"],
            told["margin"],
            told["threads"],
            told["placebos"],
            told["versions"],
            tuple(told["extended"]),
        )
    except FileNotFoundError as error:
        raise InputError(f"{folder}: holds no {TRIAL}; begin one with --methods, --data and --seeds") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is no trial that compare wrote ({shown(str(error))})") from error


def hash_of(folder: Path) -> str:
    """The hash that results carry: the SHA-256 of trial.yaml."""
    return sha256(folder / TRIAL)


def written(folder: Path, trial: Trial) -> Trial:
    """`trial` as the file in `folder` says it from now on: new, the same, or extended by arms and seeds.

    Raises InputError where another trial lies there.
    """
    if (folder / TRIAL).exists():
        trial = _extended(folder, read_trial(folder), trial)
    _keep_files(folder, trial)
    write_text(folder / _STORE, f"{trial.store}\n")
    if not (folder / TRIAL).is_file() or read_text(folder / TRIAL) != trial.text():
        write_text(folder / TRIAL, trial.text(), durable=True)
    remember([folder / TRIAL])  # whoever has typed it may go on with it
    return read_trial(folder)


def require_own_trial(folder: Path) -> None:
    """Raise InputError where what the trial in the folder would execute was not typed by this user."""
    require_own(folder, [folder / TRIAL, *sorted((folder / _FILES).glob("*"))], "going on with the trial")


def _extended(folder: Path, before: Trial, now: Trial) -> Trial:
    old, new = parse_yaml(read_text(folder / TRIAL)), now._content()
    different = [name for name in _different(old, new) if name.partition(".")[0] not in _GROWS]
    changed = [
        f"arms.{name}" for name in old["arms"] if new["arms"].get(name, old["arms"][name]) != old["arms"][name]
    ]
    if different or changed:
        raise InputError(_refusal(folder, old, new, [*different, *changed]))
    gone = [f"arm {name}" for name in old["arms"] if name not in new["arms"]]
    gone += [f"seed {seed}" for seed in old["seeds"] if seed not in new["seeds"]]
    if gone:
        raise InputError(
            f"{folder / TRIAL} has {first_of(gone)}, which was not asked for: a trial can grow, and nothing is "
            "taken out of it afterwards; ask for these, too, or choose another --out"
        )
    arms = [arm for arm in now.arms if arm.name not in old["arms"]]
    seeds = [seed for seed in now.seeds if seed not in before.seeds]
    grown = [f"arm {arm.name}" for arm in arms] + [f"seed {seed}" for seed in seeds]
    if not grown:
        return replace(before, store=now.store)
    placebos = {**before.placebos, **now.placebos}
    had = f"{len(before.arms)} arms and {len(before.seeds)} seeds"
    told = f"{', '.join(grown)} came later, when the trial had {had}"
    return replace(
        before,
        arms=(*before.arms, *arms),
        seeds=(*before.seeds, *seeds),
        placebos=placebos,
        extended=(*before.extended, told),
        store=now.store,
    )


def _different(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys((*old, *new))
        return [
            each for key in keys for each in _different(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [name] if old != new else []


def _refusal(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], names: Sequence[str]) -> str:
    told = "; ".join(f"{name} was {shown(_at(old, name))}, now {shown(_at(new, name))}" for name in names[:4])
    if any(name.startswith("store.") for name in names):
        what = "the store has changed since the trial began"
    elif any(name.startswith("versions.") for name in names):
        what = "the trial was begun with other versions"
    else:
        what = "this is another trial"
    return f"{folder / TRIAL}: {what} ({told}); choose another --out, or ask for what the file says"


def _at(content: Mapping[str, Any], name: str) -> Any:
    value: Any = content
    if name.startswith("arms."):
        return content["arms"].get(name.removeprefix("arms."))
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
