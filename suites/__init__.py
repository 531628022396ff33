"""The suites: one TOML and prompts each."""
