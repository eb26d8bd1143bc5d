"""ONNX → Relax. ``import_model`` is the way in; an operator is one decorated function in ``ops/``."""
