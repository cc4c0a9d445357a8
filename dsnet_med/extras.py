"""The extras of the package: what each brings, and the one line of an error for one that is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from dsnet_med.errors import InputError

EXTRA_OF = {  # by module; pyproject.toml lists their packages
    "distributed": "cluster",
    "pydicom": "dicom",
    "highdicom": "dicom",
    "gdcm": "dicom",
    "contourpy": "dicom",
    "tensorboard": "loggers",
    "wandb": "loggers",
    "mlflow": "loggers",
    "pycocotools": "natural",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "fastapi": "serve",
    "fastapi_offline": "serve",
    "ipyniivue": "serve",
    "python_multipart": "serve",
    "uvicorn": "serve",
}


def missing(module: str, what: str) -> InputError:
    """The error for `what`, which needs a `module` of an extra (a key of EXTRA_OF) that is not installed."""
    extra = EXTRA_OF[module]
    return InputError(
        f"{what} needs the package '{module}': pip install 'dsnet-med[{extra}]' "
        f"(in a checkout: uv sync --inexact --extra {extra})"
    )


def missing_in(error: BaseException, what: str) -> InputError | None:
    """The same for an `error` of importing such a module; None for any other."""
    name = str(getattr(error, "name", "")).partition(".")[0]
    return missing(name, what) if isinstance(error, ModuleNotFoundError) and name in EXTRA_OF else None


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Around imports from an extra: where one is not installed, InputError says that `what` needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_in(error, what) or error from error
