"""Rows as a model reads them: prepared, kept on disk, and put together as batches."""
