"""Send a file to a server once it says where it listens: upload.py ANNOUNCED.txt VOLUME MASK."""

import re
import sys
import time
import urllib.request
from pathlib import Path

SECONDS = 120


def address(announced: Path) -> str:
    for _ in range(SECONDS * 10):
        if found := re.search(r"http://[\w.]+:\d+", announced.read_text(encoding="utf-8")):
            return found[0]
        time.sleep(0.1)
    sys.exit(f"the server has not said in {SECONDS} s where it listens")


if __name__ == "__main__":
    url = address(Path(sys.argv[1])) + "/segment"
    volume = Path(sys.argv[2])
    request = urllib.request.Request(url, volume.read_bytes(), {"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        Path(sys.argv[3]).write_bytes(answer.read())
