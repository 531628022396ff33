"""TuneBench: the fair comparison of reward-tuning algorithms for text-to-image diffusion models."""

__version__ = "0.1.0"
