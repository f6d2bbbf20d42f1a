"""Memory of this process."""

from __future__ import annotations

import sys


def peak_bytes() -> int:
    """Most bytes that the process has held in memory so far; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
