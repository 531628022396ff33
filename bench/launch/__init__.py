"""Where runs run: inline, local subprocess, slurm."""
