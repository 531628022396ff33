"""The contracts: specs, budgets, registry, identity, seeds, errors. Imports nothing of ours, and never torch."""
