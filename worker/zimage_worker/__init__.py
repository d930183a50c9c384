"""The worker: one Z-Image model, one GPU thread, an OpenAI-shaped API behind authentication."""

__version__ = "0.1.0"
