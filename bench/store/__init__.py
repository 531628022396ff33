"""The run folder: layout, atomic writes, reading, locking. Never imports torch."""
