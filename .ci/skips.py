"""List the skipped tests of a JUnit report; fail when one was skipped for want of a folder that is there.

skips.py REPORT.xml FOLDER
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def skipped(report: Path) -> list[tuple[str, str]]:
    """Test and reason, for every skipped test."""
    return [
        (f"{case.get('classname')}::{case.get('name')}", node.get("message") or "")
        for case in ET.parse(report).iter("testcase")
        for node in case.iter("skipped")
    ]


def main(report: Path, folder: Path) -> int:
    tests = skipped(report)
    for name, reason in tests:
        print(f"skipped {name}: {reason}")
    wrong = [name for name, reason in tests if folder.is_dir() and folder.name in reason]
    if wrong:
        print(f"{len(wrong)} tests were skipped for want of {folder}, which is there")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
