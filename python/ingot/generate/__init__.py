"""Text from language models, translators and sound.

``Model.generate`` makes one text; a :class:`Batch`, :class:`Translator` or :class:`Transcriber` several.
"""

from ingot.generate.batch import Batch
from ingot.generate.beam import Hypothesis, Search
from ingot.generate.generation import Generation, Options, Token
from ingot.generate.sampling import Sampling
from ingot.generate.speech import Segment, Speech, Transcriber, Transcription
from ingot.generate.start import Made, generate
from ingot.generate.stats import GenerationStats
from ingot.generate.translation import BeamTranslation, Translation, Translator

__all__ = ["Batch", "BeamTranslation", "Generation", "GenerationStats", "Hypothesis", "Made", "Options", "Sampling", "Search", "Segment", "Speech",
           "Token", "Transcriber", "Transcription", "Translation", "Translator", "generate"]
