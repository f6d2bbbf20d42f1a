"""Data: rows out of files, splits of rows, and what can be wrong with either. Used by the runtimes too."""
