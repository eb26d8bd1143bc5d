"""Running artifacts: Model, Session and Artifact over libingot's C ABI. Imports neither the compiler nor a framework."""

from __future__ import annotations

from ingot.runtime.artifact import Artifact
from ingot.runtime.machine import Rate, kernels, machine, measure_bandwidth, measure_bf16, measure_fma, measure_int8
from ingot.runtime.model import Model, TensorInfo, load
from ingot.runtime.session import Session

__all__ = ["Artifact", "Model", "Rate", "Session", "TensorInfo", "kernels", "load", "machine", "measure_bandwidth", "measure_bf16", "measure_fma",
           "measure_int8"]
