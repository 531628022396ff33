"""Where TreeReward's pairs come from besides votes: exact scenes of the tiny world and images of the base model.

The reward model itself is ``bench.trees``.
"""
