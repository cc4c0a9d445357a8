"""Until its importers have moved on."""

from dsnet_med.sniff import starts_dicom  # noqa: F401

START = 512
