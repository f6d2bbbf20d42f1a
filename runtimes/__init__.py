"""What executes a plan: engines, the training loop, export and the gate."""
