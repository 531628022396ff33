"""Stage 2 of RealignDiff: what is seen in the first picture, and attention steered by it while sampling again.

plan.py        what was found in a first picture, as plain data, cached by content
parts.py       who finds it: tagger, judge, local captioner, segmenter behind small protocols, by name
modulation.py  attention processors that follow a plan
hook.py        the sampling hook that puts these together
words.py, tiny.py, scale.py   the parts themselves: rules on words, the tiny world's reader, published models
"""
