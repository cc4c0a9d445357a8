"""DICOM series as volumes: which ones a folder holds (series.py), one with its voxels (read.py)."""
