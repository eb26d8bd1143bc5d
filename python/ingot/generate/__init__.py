"""Text from language models: ``Model.generate`` for one, :class:`Batch` for several at once."""

from ingot.generate.batch import Batch
from ingot.generate.generation import Generation, Options, Token
from ingot.generate.sampling import Sampling
from ingot.generate.stats import GenerationStats

__all__ = ["Batch", "Generation", "GenerationStats", "Options", "Sampling", "Token"]
