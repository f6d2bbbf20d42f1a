"""The command line. The only part of the compiler that sees the runtimes, and it imports them inside commands."""

from compiler.cli.main import main

__all__ = ["main"]
