"""The rewards, one file each."""
