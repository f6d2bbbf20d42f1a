"""How long `recipe check` and `recipe --help` take, beside importing torch, in turn in one run.

python benchmarks/check_startup.py [--repeats 7] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "movie-sentiment-lora.json"
MAIN = "from compiler.cli import main; main(prog_name='recipe')"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "recipe --help": ["-c", MAIN, "--help"],
    "recipe check --no-facts": ["-c", MAIN, "check", "--no-facts", str(RECIPE)],
    "recipe check, first": ["-c", MAIN, "check", str(RECIPE)],
    "recipe check, again": ["-c", MAIN, "check", str(RECIPE)],
    "python -c 'import torch'": ["-c", "import torch"],
}


def main() -> None:
    """Prints the median of each command, and its share of importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each command, after one that is not counted")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    options = parser.parse_args()
    seconds = measure(options.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    torch = medians["python -c 'import torch'"]
    if options.json:
        print(
            json.dumps(
                {name: {"seconds": value, "of_torch": value / torch} for name, value in medians.items()}, indent=2
            )
        )
        return
    for name, value in medians.items():
        print(f"{name:<26} {value:6.3f} s   {value / torch:6.3f} of importing torch")


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each command, in turn; the first round warms the file cache and is dropped.

    Each round begins with nothing remembered, so that "first" hashes and counts and "again" does not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        with tempfile.TemporaryDirectory() as cache:
            for name, arguments in COMMANDS.items():
                spent = run(arguments, cache)
                if repeat:
                    seconds[name].append(spent)
    return seconds


def run(arguments: list[str], cache: str) -> float:
    """Seconds of one run. `cache`: where it may remember."""
    environment = {"RECIPE_MIRROR": str(ROOT / ".mirror"), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": cache}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
