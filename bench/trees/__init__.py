"""TreeReward's reward model (Zhang et al., ACM MM 2024): the tree, the pairs that it is fitted to, and the fit.

``dimensions`` names the tree, ``trunks`` holds the backbones, ``model`` the tree and its reward, ``pairs``,
``feedback`` and ``votes`` the data, ``fit`` the training, ``folder`` a fitted tree on disk, ``training`` what
``bench reward train tree`` does. A tuner fits one for itself (``tuners.treereward``); a reward reads one from its
folder (``rewards.tree``).
"""
