"""Whisper (Radford et al. 2022, arXiv:2212.04356): the models of family ``attention``.

The modules, the vocabulary and the rules of its greedy search are openai-whisper's; features, weights of
other formats, and everything behind ``AttentionModel`` are here. Nothing is imported from openai-whisper
before a model is built: a configuration is composed without it.
"""
