"""Frameworks → ONNX: a ``torch.nn.Module``, a Hugging Face directory or ``module:callable`` becomes an ``.onnx`` file.

Each exporter returns an :class:`Exported`: the file, example inputs, and the framework's own way to run the model, from
which the reference samples in the artifact come. Nothing here is imported to run an artifact.
"""

from ingot.export.exported import Exported
from ingot.export.huggingface import export_directory, export_huggingface
from ingot.export.sentence import export_sentence_encoder
from ingot.export.spec import load_callable
from ingot.export.torch import export_module

__all__ = ["Exported", "export_directory", "export_huggingface", "export_module", "export_sentence_encoder", "load_callable"]
