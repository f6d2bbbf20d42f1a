"""Programs of others that the tests open bundles with, by npm: pinned by version and hash in tests/clients/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PINNED = PROJECT / "tests" / "clients"
CLIENTS = PROJECT / ".clients"
FILES = ("package.json", "package-lock.json")
COMMAND = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
"""No script of a package runs: that of onnxruntime-node would fetch libraries for CUDA, beside the package."""


class ClientsError(Exception):
    """The clients can't be installed, and why."""


def are_there(folder: Path = CLIENTS) -> bool:
    """Whether the clients are installed as they are pinned."""
    installed = folder / "node_modules" / ".package-lock.json"
    return installed.is_file() and (folder / FILES[1]).read_bytes() == (PINNED / FILES[1]).read_bytes()


def install(folder: Path = CLIENTS) -> str:
    """Installs the clients, and says so. Raises ClientsError."""
    if are_there(folder):
        return f"all there: {folder}"
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(PINNED / name, folder / name)
    started = time.monotonic()
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
    try:
        subprocess.run(COMMAND, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise ClientsError("npm is missing: install Node.js 18 or newer, which brings it") from error
    except subprocess.CalledProcessError as error:
        raise ClientsError(f"{' '.join(COMMAND)} failed in {folder}, see above") from error
    return f"installed into {folder} in {time.monotonic() - started:.1f} s"


def main() -> int:
    """Installs; the exit code."""
    try:
        print(install())
    except ClientsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
