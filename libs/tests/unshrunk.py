"""Loaded by mutation runs: the first example that fails is enough, and need not be made smaller."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
settings.load_profile("unshrunk")
