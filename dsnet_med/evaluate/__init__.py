"""Scores: Dice, HD95, ASSD and NSD, with the conventions named. NumPy and SciPy only."""

from dsnet_med.evaluate.overlap import dice
from dsnet_med.evaluate.protocols import Record, score_case
from dsnet_med.evaluate.surface import assd, hd95, nsd

__all__ = ["Record", "assd", "dice", "hd95", "nsd", "score_case"]
