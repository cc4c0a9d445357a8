"""What `export` does, and `verify` for what it made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from tqdm import tqdm

from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.inference.hub import fetched, is_reference, reference, require_name

_FORMS = 9  # steps of an export, about


def export(
    runs: Sequence[Path],
    out: Path,
    *,
    formats: str | None,
    author: str,
    licence: str,
    data_source: str,
    scores: Path | None,
    push_to: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Export a run, say what became of every form, and push it where that is asked for."""
    from dsnet_med.engine.export.bundle import export as make
    from dsnet_med.engine.export.card import Words

    if push_to:
        require_name(push_to)
    named = None if formats is None else [each.strip() for each in formats.split(",") if each.strip()]
    if named is not None and not named:
        raise InputError("got an empty --formats: give bundle, onnx, pt2, torchscript, or leave it out")
    with tqdm(total=_FORMS, desc="export", unit="step", ncols=100) as shown:

        def tell(step: str) -> None:
            shown.set_postfix_str(step)
            shown.update()

        made = make(
            runs, out, named, Words(author, licence, data_source), scores=scores, trust=trust, tell=tell
        )
        shown.total = shown.n
        shown.refresh()
    pushed = _pushed(out, push_to) if push_to else None
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "out": str(out),
                    "formats": _short(made.certificate),
                    "failed": dict(made.failed),
                    "pushed": pushed,
                }
            )
        )
    else:
        for name, form in made.certificate["formats"].items():
            typer.echo(f"{name}: {_told(form)}")
        for note in made.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"bundle in {out}; docs/README.md describes it, dsnet-med verify {out} compares it again")
        if pushed:
            typer.echo(f"pushed to {pushed}")
    if made.failed:
        raise CasesFailedError(dict(made.failed))


def _pushed(out: Path, name: str) -> str:
    from dsnet_med.inference.hub import push

    return push(out, name)


def _short(certificate: Any) -> dict[str, Any]:
    return {
        name: {key: value for key, value in form.items() if key not in ("checks", "probes")}
        for name, form in certificate["formats"].items()
    }


def _told(form: Any) -> str:
    if "largest_difference" not in form and "equal_voxels" not in form:
        return f"the reference, {_milliseconds(form)}"
    parts = [f"{form['file']}, opened by {form['runtime']}"]
    if form.get("largest_difference") is not None:
        parts.append(f"logits within {form['largest_difference']:.1e}")
    parts.append(f"{100 * form['equal_voxels']:.3f} % of the voxels equal")
    if told := _milliseconds(form):
        parts.append(told)
    if form.get("sizes", "any") != "any":
        seen = "windows" if "ms_per_window" in form else "slices"
        parts.append(f"{seen} of {form['sizes']} alone")
    return ", ".join(parts)


def _milliseconds(form: Any) -> str:
    found = [(form[f"ms_per_{what}"], what) for what in ("slice", "window") if f"ms_per_{what}" in form]
    return ", ".join(f"{milliseconds} ms a {what}" for milliseconds, what in found)


def bundle_folder(path: Path) -> Path | None:
    """The folder of the exported bundle that `path` is, or whose certificate; None for anything else.

    A model of the hub, hf://OWNER/NAME, is fetched with all its files. Raises InputError where that cannot be.
    """
    name = "certificate.json"
    if is_reference(path):
        folder = fetched(path, whole=True)
        if not (folder / name).is_file():
            raise InputError(f"{reference(path)}: has no {name}, so nothing can be compared")
        return folder
    if path.is_dir():
        return path if (path / name).is_file() else None
    return path.parent if path.name == name else None


def verify(folder: Path, *, trust: bool, of_hub: bool = False) -> None:
    """Compare every form of an exported bundle again. CasesFailedError where its certificate does not hold."""
    from dsnet_med.cli.scoring import tell_differences
    from dsnet_med.engine.export.certificate import (
        Reference,
        changed_files,
        differences,
        examined,
        read_certificate,
    )
    from dsnet_med.inference.trust import configured, require_own

    certificate = read_certificate(folder)
    tell_differences(folder, changed_files(folder, certificate))
    if not trust and of_hub:
        raise InputError(
            f"{folder}: comparing it again would run the code of a bundle from the hub; read its configs and "
            "scripts there, and where you trust them say --trust"
        )
    if not trust:
        require_own(folder, configured(folder), "comparing it again")
    fixed = [name for name, form in certificate["formats"].items() if form.get("sizes", "any") != "any"]
    reference = Reference.of(folder, trust=trust)
    results: dict[str, Any] = {}
    with tqdm(total=len(certificate["formats"]), desc="verify", unit="form", ncols=100) as shown:
        for name, result in examined(folder, reference, fixed=fixed, trust=trust):
            results[name] = result
            shown.set_postfix_str(name)
            shown.update()
    tell_differences(folder, differences(certificate, results))
    typer.echo(f"{folder} holds: {len(certificate['files'])} files, {', '.join(results)} compared again")
