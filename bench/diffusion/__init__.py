"""Base models, adapters, samplers, the rollout engine, generation, meters."""
