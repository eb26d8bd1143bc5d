"""Quantization of float weights: which schemes there are, how numbers are rounded, and what that loses."""
