"""Base models, precision, LoRA and QLoRA, adapters, and their tokenizers."""
