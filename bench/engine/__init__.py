"""Options to plan, and the worker that carries out one run."""
