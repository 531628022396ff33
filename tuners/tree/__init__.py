"""TreeReward's reward model and feedback data: usable without a tuner.

``dimensions`` names the tree, ``trunks`` holds the backbones, ``model`` the tree and its reward, ``feedback`` the pairs
on disk, ``scenes``, ``generated`` and ``votes`` the places pairs come from, ``fit`` the training.
"""
