"""What libraries say that is no news: silenced by its words, in the processes of commands alone."""

import logging
import os
import threading
import warnings

from tqdm import tqdm

from dsnet_med.errors import want_of_means

_WARNINGS = (  # how each begins, and when it is said
    r"This DataLoader will create \d+ worker processes",  # on a machine of fewer cores than our default
    r"'pin_memory' argument is set as true but no accelerator",  # on a CPU
    r"Data iterator can not provide data anymore",  # a process without a part of the validation
    r"Detected call of `lr_scheduler\.step\(\)` before",  # a first step that the gradient scaler leaves out
    r"`torch\.cuda\.amp\.GradScaler\(args\.\.\.\)` is deprecated",  # MONAI, with float16
    r"TensorFloat32 tensor cores for float32 matrix multiplication available",  # with --compile
    r"NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register",  # MONAI
    r".*joblib will operate in serial mode",  # where /dev/shm cannot be used
    r"Grad strides do not match bucket view strides",  # several processes with channels_last
)
_RECORDS = {  # by logger
    "monai.bundle.workflows": "Setting logging properties based on config",
    "ignite.engine.engine.SupervisedTrainer": "run is terminating due to exception",  # which is told
    "ignite.engine.engine.SupervisedEvaluator": "run is terminating due to exception",
}
_DICOM = ("pydicom", "highdicom")  # whose opinions of headers are many; what matters is raised
_SILENT = (*_DICOM, "matplotlib")  # which tells that it makes a list of fonts


def quiet() -> None:
    """Silence what is known to be noise; nothing with DSNET_MED_DEBUG=1."""
    if os.environ.get("DSNET_MED_DEBUG") == "1":
        return
    tqdm.monitor_interval = 0  # a thread that our bars, which advance by themselves, do not need
    threading.excepthook = _thread_ended
    for beginning in _WARNINGS:
        warnings.filterwarnings("ignore", message=beginning)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(_DICOM)}|dsnet_med\.dicom)(\.|$)")
    for name in _RECORDS:
        logging.getLogger(name).addFilter(_is_news)
    for name in _SILENT:
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # what torch's profiler prints of itself


def _thread_ended(failure: threading.ExceptHookArgs) -> None:
    """No traceback of a library's thread that could not have what it needs: the command tells the cause."""
    if failure.exc_value is None or want_of_means(failure.exc_value) is None:
        threading.__excepthook__(failure)


def _is_news(record: logging.LogRecord) -> bool:
    return _RECORDS[record.name] not in str(record.msg)
