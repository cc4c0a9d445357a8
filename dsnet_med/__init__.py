"""Medical-image segmentation with attention plug-ins: train, segment, score, compare."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsnet_med.inference import Predictor
    from dsnet_med.methods import build_network

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "build_network"]


def __getattr__(name: str) -> Any:
    """Give a name when it is first asked for, so that importing the package stays quick."""
    if name == "build_network":
        from dsnet_med.methods import build_network  # noqa: PLC0415

        return build_network
    if name == "Predictor":
        from dsnet_med.inference import Predictor  # noqa: PLC0415

        return Predictor
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
