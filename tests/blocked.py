"""A child process in which nothing can be imported but what a receiver has."""

from __future__ import annotations


def only(*packages: str) -> str:
    """Python that blocks every import but those of the standard library, of ours and of these packages."""
    allowed = {*packages, "compiler", "runtimes", "__main__", "__mp_main__"}
    return f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {allowed!r} and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Block())
"""
