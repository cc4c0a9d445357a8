"""What `plan` does: a proposal on the terminal, and as an overlay for `train`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dsnet_med.cli.options import AsJson
from dsnet_med.errors import InputError
from dsnet_med.files import write_text


def plan(
    store: Annotated[Path, typer.Argument(help="The store to train on.")],
    memory: Annotated[float, typer.Option(help="Memory of the device, in GB.", min=0)] = 8.0,
    out: Annotated[Path | None, typer.Option("--out", help="File of an overlay to write (.yaml).")] = None,
    method: Annotated[
        str | None, typer.Option(help="A row of DynUNet, U-Net, SegResNet or Swin UNETR.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Propose patch, batch and network for a store and so much memory, and say why."""
    if out is not None:
        if out.suffix not in (".yaml", ".yml"):
            raise InputError(f"got --out {out}, wanted a file that ends in .yaml")
        if out.exists() and not replace:
            raise InputError(f"{out} is there already: give another --out, or --replace")
    from dsnet_med.engine.plan import GB, propose
    from dsnet_med.prepare.store import Store

    made = propose(Store.open(store), memory_gb=memory, method=method)
    if out is not None:
        write_text(out, made.overlay())
    if as_json:
        told = {"method": made.method, "memory_gb": memory, "needs_gb": round(made.needs / GB, 3)}
        typer.echo(json.dumps(told | {"reasons": made.reasons, "settings": made.settings()}, indent=2))
        return
    for number, reason in enumerate(made.reasons, start=1):
        typer.echo(f"{number}. {reason}")
    if out is None:
        typer.echo("\n" + made.overlay().rstrip())
    else:
        typer.echo(f"in {out}: dsnet-med train --method {made.method} --data {store} --overlay {out} --out RUN")
