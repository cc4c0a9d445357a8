"""What became of a number of attacks of one kind."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

OUTCOMES = ("noticed", "harmless", "silent", "raw", "lost")


@dataclass
class Tally:
    """How many attacks of one kind were tried and how they ended.

    `noticed`: told in plain words, or mended. `harmless`: nothing that counts had changed. `silent`: a wrong
    result without a word. `raw`: a traceback, or the end of the process. `lost`: work that was finished, or
    could have been, is not there, and the same command does not bring it. `examples` are of the last three.
    """

    kind: str
    ended: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, outcome: str, example: str = "") -> None:
        """Count one attack."""
        if outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome '{outcome}'")
        self.ended[outcome] += 1
        if outcome in OUTCOMES[2:]:
            self.examples.append(f"{outcome}: {example}"[:600])

    @property
    def tried(self) -> int:
        """How many attacks were made."""
        return self.ended.total()

    @property
    def failed(self) -> int:
        """How many of them did what none may do."""
        return sum(self.ended[outcome] for outcome in OUTCOMES[2:])


def table(tallies: Iterable[Tally]) -> str:
    """The tallies as a Markdown table."""
    lines = [
        "| attack | tried | noticed or mended | harmless | silent | raw | lost |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for tally in tallies:
        counts = " | ".join(str(tally.ended[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {tally.kind} | {tally.tried} | {counts} |")
    return "\n".join(lines)


def flip_bit(file: Path, chance: random.Random) -> str:
    """Turn one random bit of a file round; says which."""
    content = bytearray(file.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"{file.name}, bit {bit % 8} of byte {bit // 8} of {len(content)}"
