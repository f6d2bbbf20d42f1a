"""The gate: whether a model answers as the one that it was made from, for its maker, its receiver and a stranger."""
