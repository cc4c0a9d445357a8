"""List the skipped tests of a JUnit report; fail when one lacked anything but a GPU: skips.py REPORT.XML"""

import sys
import xml.etree.ElementTree as ET


def main(report: str) -> int:
    wrong = 0
    for case in ET.parse(report).iter("testcase"):
        for node in case.iter("skipped"):
            reason = node.get("message") or ""
            wrong += "GPU" not in reason
            print(f"skipped {case.get('classname')}::{case.get('name')}: {reason}")
    if wrong:
        print(f"{wrong} tests were skipped for want of something other than a GPU")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
