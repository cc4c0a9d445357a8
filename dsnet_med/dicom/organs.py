"""Until its importers have moved on."""

from dsnet_med.organs import Code, organ_of  # noqa: F401
