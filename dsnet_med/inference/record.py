"""weights.json of a run: which weights its training left as the best, and what they were trained on.

Weights, inference.yaml and scripts are compared with it wherever they are used. It guards against accidents and
mix-ups: who means to exchange them removes it. A folder without one claims nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import dsnet_med
from dsnet_med.errors import InputError, cannot_read, one_line
from dsnet_med.files import read_json, sha256, write_json
from dsnet_med.inference.trust import executed_files
from dsnet_med.networks.checkpoint import digest, read_checkpoint
from dsnet_med.seal import holds, sealed

RECORD = "weights.json"
_FACTS = ("method", "seed", "store_id")


@contextmanager
def recorded(run: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Iterator[None]:
    """Record `weights` and what they were trained on for the run whose best are written meanwhile.

    Until they are written, the earlier ones are the run's, too: a run killed between the two is whole.
    """
    earlier, new = _read(run, RECORD), digest(weights)
    kept = earlier.get("weights_sha256") if isinstance(earlier, dict) else None
    _write(run, [new, *(kept if isinstance(kept, list) else ())], facts)
    yield
    _write(run, [new], facts)


def _write(run: Path, digests: list[Any], facts: Mapping[str, Any]) -> None:
    files = {file.relative_to(run).as_posix(): sha256(file) for file in executed_files(run)}
    content = {"weights_sha256": list(dict.fromkeys(digests)), "files": files, **facts}
    content |= {"written_by": f"dsnet-med {dsnet_med.__version__}"}
    write_json(run / RECORD, sealed(content), durable=True)


def require_recorded(
    run: Path, weights: Mapping[str, Tensor], summary: Mapping[str, Any], where: Path | str | None = None
) -> str:
    """How the weights of a run are vouched for, in a word: "as trained", or "without a record".

    `summary` is what its summary.json says, `where` what the user calls it. Raises InputError where they, or
    the files that say how they are used, are not those that the training left there.
    """
    record, where = _read(run, RECORD), where or run
    if record is None:
        return "without a record"
    if not isinstance(record, dict) or holds(record) is not True:
        raise _refused(where, f"its {RECORD} is damaged")
    if digest(weights) not in record.get("weights_sha256", ()):
        raise _refused(where, f"its weights are not those that its training left there ({RECORD})")
    files = {file.relative_to(run).as_posix(): sha256(file) for file in executed_files(run)}
    for name in sorted(files.keys() | dict(record.get("files", {})).keys()):
        if files.get(name) != record["files"].get(name):
            raise _refused(where, f"its {name} is not as it was when it was trained ({RECORD})")
    for name in _FACTS:
        if name in summary and name in record and _id(summary[name]) != record[name]:
            raise _refused(where, f"its summary.json is of another training, of other {name}, than its weights")
    return "as trained"


def summary_of(run: Path, where: Path | str | None = None) -> dict[str, Any]:
    """What a run's summary.json says, nothing where there is none; InputError where it was changed since.

    A folder with a record has one that is sealed; of others' any content will do.
    """
    summary, recorded = _read(run, "summary.json"), (run / RECORD).is_file()
    if not isinstance(summary, dict):
        if summary is None or not recorded:
            return {}
        raise InputError(f"{where or run}: its summary.json is damaged; restore it, or remove it")
    if holds(summary) is False or (recorded and holds(summary) is None):
        raise InputError(f"{where or run}: its summary.json was changed since; restore it, or remove it")
    return summary


def load_recorded(network: nn.Module, file: Path) -> None:
    """Load a run's models/FILE into `network`, which may be wrapped for several processes.

    Raises InputError where it is absent, damaged, exchanged, or of another network.
    """
    run, weights = file.parents[1], read_checkpoint(file)
    require_recorded(run, weights, summary_of(run))
    try:
        getattr(network, "module", network).load_state_dict(weights)
    except RuntimeError as error:  # names or shapes
        raise InputError(
            f"{file} holds the weights of another network ({one_line(error)}): give the --method and --width "
            "of the training"
        ) from error


def _read(run: Path, name: str) -> Any:
    """What a JSON file of the run holds, None where there is none, Ellipsis for what is no JSON.

    Raises InputError where it is there and means are wanting to read it.
    """
    file = run / name
    try:
        if not file.is_file():
            return ... if file.exists() else None
        return read_json(file)
    except ValueError:
        return ...
    except (OSError, MemoryError) as error:
        raise cannot_read(file, error, one_line(error)) from error


def _id(value: Any) -> Any:
    return value.get("id") if isinstance(value, Mapping) else value


def _refused(where: Path | str, why: str) -> InputError:
    return InputError(f"{where}: {why}; put back what was there, or remove {RECORD} where the change is meant")
