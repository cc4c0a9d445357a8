"""What `train` does: a run prepared, or gone on with, and trained."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from dsnet_med.cli.noise import quiet
from dsnet_med.errors import InputError

_CALLED = {"val_mean_dice": "Dice"}


@dataclass(frozen=True)
class Request:
    """What was asked for: the options that were given, by their ids, and what `--set` and `--overlay` say."""

    method: str | None
    data: Path | None
    given: Mapping[str, Any]
    assignments: Sequence[str] = ()
    overlays: Sequence[Path] = ()
    plugin: str | None = None
    at: str | None = None

    def settings(self) -> dict[str, Any]:
        """What the options say, and over it the assignments."""
        from dsnet_med.engine.overrides import parse_settings

        given = {name: value for name, value in self.given.items() if value is not None}
        return given | parse_settings(self.assignments)


def train(out: Path, request: Request, *, device: str = "auto", devices: int = 1) -> dict[str, Any]:
    """Prepare a run folder and train it; options that were not given keep the configuration's values."""
    if request.method is None or request.data is None:
        raise InputError("give --method and --data (or --resume to go on with the run in --out)")
    from dsnet_med.engine.plugin_choice import PluginChoice
    from dsnet_med.engine.run import prepare
    from dsnet_med.methods import method_row
    from dsnet_med.networks.attaching import DEFAULT_PLACE

    settings = request.settings()
    _refuse_what_it_has_not(request, method_row(request.method)["method_card"].get("task", "organs"))
    plugin = PluginChoice(request.plugin, request.at or DEFAULT_PLACE) if request.plugin else None
    prepared = partial(prepare, request.method, request.data, out, settings)
    return _trained(
        partial(prepared, overlays=request.overlays, plugin=plugin), out, device, devices, resume=False
    )


def _refuse_what_it_has_not(request: Request, task: str) -> None:
    given = {"--plugin": request.plugin, "--select-on": request.given.get("select_on")}
    given |= {"--fold": request.given.get("fold")}
    if task != "organs" and (names := [name for name, value in given.items() if value is not None]):
        raise InputError(f"got {names[0]} for {request.method}, which has none: leave it out")


def resume(
    out: Path, request: Request, *, device: str = "auto", devices: int = 1, trust: bool = False
) -> dict[str, Any]:
    """Go on with the run in a folder, which may be a stranger's where `trust` is given."""
    if request.plugin is not None or request.at is not None:
        raise InputError("got --plugin or --at with --resume: a run goes on with the network that it has")
    from dsnet_med.engine.run import reopen

    reopened = partial(reopen, out, request.settings(), method=request.method, data=request.data, trust=trust)
    return _trained(partial(reopened, overlays=request.overlays), out, device, devices, resume=True)


def _trained(
    prepared: Callable[[], None], out: Path, device: str, devices: int, *, resume: bool
) -> dict[str, Any]:
    """Let the first of the processes that torchrun has started prepare the folder, and train in all."""
    from dsnet_med.engine import distributed
    from dsnet_med.engine.session import owned

    distributed.check_devices(devices, device)
    distributed.start(distributed.device(device))
    main = distributed.is_main()
    settings: dict[str, Any] = {"resume": resume}
    if device != "auto":
        settings["device"] = f"$engine.distributed.device('{device}')"
    profile = out / "profile" / "table.txt"
    profile.unlink(missing_ok=True)  # of an earlier part of the run
    with ExitStack() as held:

        def prepare_alone() -> None:
            held.enter_context(owned(out))  # to the end: nobody else is to prepare it meanwhile
            prepared()

        distributed.on_main(prepare_alone)
        summary = distributed.launch(_in_process, devices, out, settings)
    if main:
        if profile.is_file():
            typer.echo(profile.read_text(encoding="utf-8"))
        _tell(summary, out)
    return summary


def _in_process(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train in this process, which may be a new one."""
    from dsnet_med.engine.run import train

    quiet()
    return train(out, settings)


def _tell(summary: Mapping[str, Any], out: Path) -> None:
    (score, value), (_, iteration) = summary["best"].items()
    best = f"{value:.3f}" if value >= 0 else "not measured"
    on = f" on {summary['select_on']} cases" if "select_on" in summary else ""
    typer.echo(
        f"{summary['method']['title']}: best {_CALLED.get(score, score)} {best}{on} at iteration "
        f"{iteration}, {summary['parameters']:,} parameters, {summary['seconds']:.0f} s, in {out}"
    )
