"""Until its importers have moved on."""

from dsnet_med.sniff import *  # noqa: F403
from dsnet_med.sniff import _METAIMAGE as METAIMAGE  # noqa: F401
