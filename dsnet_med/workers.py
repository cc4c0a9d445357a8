"""Until its importers have moved on."""

from dsnet_med.processes import *  # noqa: F403
