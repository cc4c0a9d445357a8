"""Print the first command of a README section: readme_command.py README.md "Run the tests"."""

import re
import sys
from pathlib import Path


def command(text: str, heading: str) -> str | None:
    """The first line of the first fenced block under `heading`, or None."""
    section = re.search(rf"^#+ {re.escape(heading)}\s*$(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    block = section and re.search(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    lines = block[1].split("\n") if block else []
    return next((line.strip() for line in lines if line.strip()), None)


if __name__ == "__main__":
    found = command(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2])
    if found is None:
        sys.exit(f"{sys.argv[1]} has no command under the heading '{sys.argv[2]}'")
    print(found)
