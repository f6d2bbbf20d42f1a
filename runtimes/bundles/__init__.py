"""What is handed over: one folder from which the tuned model answers, what is in it, and what it says of itself."""
