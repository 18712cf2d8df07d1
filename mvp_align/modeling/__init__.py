"""Base models, precision, LoRA and QLoRA, adapters, merging."""
