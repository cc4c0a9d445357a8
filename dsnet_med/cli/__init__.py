"""The command line. Commands import what they need when they run, so that --help is quick.

Nothing else is loaded before it is known that this Python can read it.
"""

import sys
from typing import Any

PYTHONS = ((3, 11), (3, 12), (3, 13))  # those that `.ci/run` tries


def __getattr__(name: str) -> Any:
    if name == "guarded":  # scripts that run commands in their own process take it from here
        from dsnet_med.cli.guard import guarded

        return guarded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """The `dsnet-med` console script."""
    _prepare()
    from dsnet_med.cli.guard import run_dsnet_med

    sys.exit(run_dsnet_med(sys.argv[1:]))


def monai() -> None:
    """The `monai` console script: `monai bundle run training`, typed in a bundle folder."""
    _prepare()
    from dsnet_med.cli.guard import run_monai

    sys.exit(run_monai(sys.argv[1:]))


def _prepare() -> None:
    from dsnet_med.cli.streams import make_streams_last

    make_streams_last()
    _require_python()


def _require_python() -> None:
    """End with one line under a Python that dsnet-med is not tested with."""
    here = sys.version_info[:2]
    if here not in PYTHONS:
        tested = ", ".join("{}.{}".format(*version) for version in PYTHONS)
        sys.stderr.write(
            "dsnet-med: got Python {}.{}, wanted one that it is tested with ({}): "
            "install it in an environment of one of these\n".format(*here, tested)
        )
        sys.exit(2)
