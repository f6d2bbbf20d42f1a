"""Requests per second of `recipe predict --serve`, with requests put together into batches and with each by itself.

python benchmarks/serving.py BUNDLE [--threads 1] [--clients 1 8 32] [--requests 400] [--beside]

With --beside: how long requests of one text take while the server answers a large one.

The server is a process of its own; the clients are threads of this one, each with a connection that it keeps, and take
their share of its cores. A request that is not answered ends the benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

COMMAND = 'import sys; sys.argv[0] = "recipe"; from compiler.cli import main; sys.exit(main())'
ROOT = Path(__file__).parents[1]
GOLDEN = "golden.jsonl"
SETTINGS = {
    "batches, waits 5 ms": ("--max-batch", "32", "--max-wait-ms", "5"),
    "batches of what waits": ("--max-batch", "32", "--max-wait-ms", "0"),
    "each by itself": ("--max-batch", "1", "--max-wait-ms", "0"),
}

LARGE = {"1 of 4,100,000 characters": (1, 4_100_000), "20 of 200,000": (20, 200_000), "256 of 2,000": (256, 2_000)}
"""Rows of a large request, and characters of each."""


def main() -> None:
    """Prints a line for each setting and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--beside", action="store_true")
    asked = parser.parse_args()
    if not (asked.bundle / GOLDEN).is_file():
        parser.error(f"{asked.bundle} is no bundle")
    texts = texts_of(asked.bundle)
    print(f"{asked.bundle}, {asked.threads} thread(s) for the graph, {os.cpu_count()} cores, {platform.machine()}")
    if asked.beside:
        print_beside(asked.bundle, asked.threads, texts)
        return
    print(f"{asked.requests} requests of one text, {statistics.mean(map(len, texts)):.0f} characters on average")
    print(f"{'setting':<24}{'clients':>8}{'requests/s':>12}{'median ms':>11}{'p95 ms':>9}")
    for name, options in SETTINGS.items():
        with served(asked.bundle, asked.threads, options) as port:
            measure(port, texts, clients=1, requests=20)  # the first requests are slower
            for clients in asked.clients:
                seconds, latencies = measure(port, texts, clients=clients, requests=asked.requests)
                times = [1000 * each for each in sorted(latencies)]
                rate, median, late = len(times) / seconds, statistics.median(times), times[int(0.95 * len(times))]
                print(f"{name:<24}{clients:>8}{rate:>12.0f}{median:>11.1f}{late:>9.1f}")


def print_beside(bundle: Path, threads: int, texts: Sequence[str]) -> None:
    """Prints a line for small requests alone, and for those beside each large one, which is sent three times."""
    print(f"{'large request, rows':<28}{'status':>8}{'seconds':>9}{'small':>8}{'median ms':>11}{'longest ms':>12}")
    with served(bundle, threads, ()) as port:
        measure(port, texts, clients=1, requests=20)  # the first requests are slower
        _, alone = measure(port, texts, clients=1, requests=100)
        print(f"{'none':<45}{_small(alone)}")
        for name, (num_rows, length) in LARGE.items():
            text = (" ".join(texts) * (length // sum(map(len, texts)) + 1))[:length]
            answered, small = beside(port, {"rows": [{_column(port): text}] * num_rows}, texts)
            seconds = statistics.median(seconds for _, seconds in answered)
            print(f"{name:<28}{answered[0][0]:>8}{seconds:>9.2f}{_small(small)}")


def beside(port: int, large: Any, texts: Sequence[str]) -> tuple[list[tuple[int, float]], list[float]]:
    """Status and seconds of a large request, sent three times, and the seconds of small ones sent meanwhile."""
    body = json.dumps(large, ensure_ascii=False).encode()
    answered: list[tuple[int, float]] = []
    small: list[float] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: answered.append(_timed(port, body)))
        thread.start()
        while thread.is_alive():
            small.append(_timed(port, json.dumps({"text": texts[len(small) % len(texts)]}).encode())[1])
        thread.join()
    return answered, small


def _small(latencies: Sequence[float]) -> str:
    times = [1000 * each for each in latencies]
    return f"{len(times):>8}{statistics.median(times):>11.0f}{max(times):>12.0f}"


def _timed(port: int, body: bytes) -> tuple[int, float]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    start = time.monotonic()
    connection.request("POST", "/predict", body)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, time.monotonic() - start


def _column(port: int) -> str:
    """The column of a row's text."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metadata")
    column = json.loads(connection.getresponse().read())["columns"][0]["column"]
    connection.close()
    return str(column)


def texts_of(bundle: Path) -> list[str]:
    """The texts of the bundle's real golden rows."""
    lines = (bundle / GOLDEN).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = [row["row"]["text"] for row in rows if not row["probe"] and "text" in row["row"]]
    if not found:
        raise SystemExit(f"{bundle} does not read texts: name the bundle of a task whose rows are one text")
    return found


@contextmanager
def served(bundle: Path, threads: int, options: Sequence[str]) -> Iterator[int]:
    """The port of a server while the block runs."""
    words = ["predict", str(bundle), "--serve", "--port", "0", "--threads", str(threads), *options]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    port = line.strip().rpartition(":")[2]
    try:
        if not port.isdecimal():
            raise SystemExit(f"the server does not start: {line}{process.stderr.read()}")
        yield int(port)
    finally:
        process.terminate()
        process.wait()


def measure(port: int, texts: Sequence[str], *, clients: int, requests: int) -> tuple[float, list[float]]:
    """Seconds for all requests, and those of each. Raises SystemExit for an answer that is none."""
    latencies: list[float] = []
    wrong: list[Any] = []
    share = [range(first, requests, clients) for first in range(clients)]
    threads = [threading.Thread(target=_ask, args=(port, texts, numbers, latencies, wrong)) for numbers in share]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    if wrong or len(latencies) != requests:
        raise SystemExit(f"{requests - len(latencies)} requests were not answered: {wrong[:1]}")
    return seconds, latencies


def _ask(port: int, texts: Sequence[str], numbers: range, latencies: list[float], wrong: list[Any]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for number in numbers:
        start = time.monotonic()
        connection.request("POST", "/predict", json.dumps({"text": texts[number % len(texts)]}))
        response = connection.getresponse()
        value = json.loads(response.read())
        if response.status == 200 and len(value["answers"]) == 1:
            latencies.append(time.monotonic() - start)
        else:
            wrong.append(value)
    connection.close()


if __name__ == "__main__":
    main()
