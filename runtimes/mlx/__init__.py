"""The back end on MLX: torch traces the training objective once, and the graph is lowered to MLX."""
