"""Writers of the exported formats: one file a format, each a function from a model folder to files."""
