"""DICOM series as volumes: which ones a folder holds (series.py), one with its voxels (read.py).

Of the extra `dicom`: importing any part of it without that raises InputError, which names the extra.
"""

from dsnet_med.extras import needed_for

with needed_for("DICOM"):
    import pydicom  # noqa: F401
