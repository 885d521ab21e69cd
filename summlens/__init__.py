"""summlens: what changes inside a GPT-like model when it is fine-tuned to summarise."""

__version__ = "0.1.0"
