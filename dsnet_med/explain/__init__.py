"""What the plug-ins of a network compute on real volumes, and what becomes of the masks without them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsnet_med.explain.run import explain

__all__ = ["explain"]


def __getattr__(name: str) -> Any:
    if name == "explain":
        from dsnet_med.explain.run import explain  # noqa: PLC0415 -- torch, which tables do without

        return explain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
