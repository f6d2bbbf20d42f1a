"""The recipe compiler: everything from a recipe's text to its plan. Imports no framework."""

__version__ = "0.1.0"
