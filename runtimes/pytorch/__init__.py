"""The engine on PyTorch: transformers models, peft methods."""
