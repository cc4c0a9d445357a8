"""Fail unless the wheel and the sdist hold every tracked file that they should: packed.py WHEEL SDIST."""

import subprocess
import sys
import tarfile
import zipfile

SHIPPED = {"configs/": "dsnet_med/shipped/configs/", "data_prep/": "dsnet_med/shipped/data_prep/"}


def tracked(*folders: str) -> list[str]:
    listing = subprocess.run(["git", "ls-files", *folders], capture_output=True, text=True, check=True).stdout
    return listing.splitlines()


def in_wheel(name: str) -> str:
    """Where the wheel keeps a tracked file."""
    for folder, place in SHIPPED.items():
        if name.startswith(folder):
            return place + name.removeprefix(folder)
    return name


def main(wheel: str, sdist: str) -> int:
    with zipfile.ZipFile(wheel) as archive:
        wheel_names = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        sdist_names = {name.partition("/")[2] for name in archive.getnames()}
    product = tracked("dsnet_med", *SHIPPED)
    missing = [f"wheel lacks {in_wheel(name)}" for name in product if in_wheel(name) not in wheel_names]
    missing += [f"wheel holds nothing of {folder}" for folder in SHIPPED if not tracked(folder)]
    missing += ["wheel lacks the licence"] * (not any(name.endswith("/LICENSE") for name in wheel_names))
    wanted = [*product, *tracked("tests", ":!tests/data", "docs", "LICENSE", "README.md", "pyproject.toml")]
    missing += [f"sdist lacks {name}" for name in wanted if name not in sdist_names]
    missing += [
        f"sdist holds {name}, which is for the checkout"
        for name in tracked("tests/data")
        if name in sdist_names
    ]
    print("\n".join(missing) or f"wheel: {len(wheel_names)} files, sdist: {len(sdist_names)}; nothing missing")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
