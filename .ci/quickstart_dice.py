"""Fail unless a quickstart scored all 8 organs, well enough: quickstart_dice.py SUMMARY.json."""

import json
import sys
from pathlib import Path

LEAST = 0.80

if __name__ == "__main__":
    summary = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dice, organs = summary["mean"]["dice"], len(summary["labels"])
    print(f"mean Dice {dice:.3f} over {organs} organs")
    sys.exit(dice < LEAST or organs != 8)
