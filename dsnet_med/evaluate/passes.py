"""The three passes behind every measure: what is counted, where the borders lie, how far they are apart.

Each is written twice: compiled (kernel.pyx), which is what runs, and in SciPy (passes_scipy.py), which the
first is tested against and which runs where there was no C compiler. The values are the same.

Label maps are C-contiguous (I, J, K), uint8 or uint16; a plane is (1, J, K). Places are voxels (N, 3), int32
and C-contiguous, in the order of memory.
"""

from dsnet_med.evaluate.survey import Passes


def choose() -> tuple[str, Passes]:
    """The compiled form, or SciPy's where there is none, and its name."""
    try:
        from dsnet_med.evaluate import passes_compiled  # noqa: PLC0415 -- absent without a C compiler
    except ImportError:
        from dsnet_med.evaluate import passes_scipy  # noqa: PLC0415 -- SciPy takes half a second to load

        return "scipy", passes_scipy
    return "compiled", passes_compiled


NAME, PASSES = choose()
