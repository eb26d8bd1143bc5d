"""Tuning: the few best candidates of the cost model, measured on this machine, and a file that remembers the results."""

from __future__ import annotations

from ingot.tune.tuner import Recorder, Tuner, default_file

__all__ = ["Recorder", "Tuner", "default_file"]
