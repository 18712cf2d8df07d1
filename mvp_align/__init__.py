"""Align LLaMA-family models with people's stated values, and show for whom it worked."""

__version__ = "0.1.0"
