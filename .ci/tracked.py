"""Fail when a tracked file names a registry's host or a path of one machine, or is a lock file.

Each pattern has a bracket in it, so that this file does not match itself.
"""

import re
import subprocess
import sys
from pathlib import Path

FORBIDDEN = {
    "a package registry's host": re.compile(
        r"(py[p]i|python[h]osted|np[m]js|deb[i]an|ana[c]onda|crate[s])\.(org|com|io)|download\.py[t]orch\.org"
    ),
    "a path of one machine": re.compile(
        r"(?<![\w.])/(wor[k]|far[m]|roo[t]|hom[e]/\w+|User[s]/\w+)/|\.librar[y]"
    ),
}
LOCKS = ("uv.lock", "poetry.lock", "pdm.lock")


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def findings(name: str) -> list[str]:
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, FileNotFoundError):
        return []  # binary, or deleted but not committed yet
    return [
        f"{name}:{number}: names {what}: {line.strip()[:100]}"
        for number, line in enumerate(lines, 1)
        for what, pattern in FORBIDDEN.items()
        if pattern.search(line)
    ]


def main() -> int:
    tracked = git("ls-files", "-z").stdout.split("\0")[:-1]
    problems = [line for name in tracked for line in findings(name)]
    problems += [f"{name}: a lock file is tracked" for name in tracked if Path(name).name in LOCKS]
    if git("check-ignore", "--quiet", "--no-index", "uv.lock").returncode:
        problems.append("uv.lock is not ignored")
    if not tracked:
        problems.append("git lists no tracked file")
    print("\n".join(problems) or f"{len(tracked)} tracked files name no registry host and no path of a machine")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
