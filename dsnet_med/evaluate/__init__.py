"""Scores: Dice, HD95, ASSD and NSD, with the conventions named, and what they decide. NumPy and SciPy only."""

from dsnet_med.evaluate.analysis import analyse
from dsnet_med.evaluate.mask_scores import assd, dice, hd95, nsd
from dsnet_med.evaluate.protocols import Record, score_case

__all__ = ["Record", "analyse", "assd", "dice", "hd95", "nsd", "score_case"]
