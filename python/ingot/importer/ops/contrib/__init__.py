"""The operators of onnxruntime's own domain, com.microsoft, that exporters and its optimizer emit. Importing this package registers them.

Weights in blocks of few bits (MatMulNBits) are in importer/ops/microsoft.py.
"""

from ingot.importer.ops.contrib import activation as activation
from ingot.importer.ops.contrib import attention as attention
from ingot.importer.ops.contrib import blocks as blocks
from ingot.importer.ops.contrib import fused as fused
from ingot.importer.ops.contrib import grouped as grouped
from ingot.importer.ops.contrib import image as image
from ingot.importer.ops.contrib import integer as integer
from ingot.importer.ops.contrib import inverse as inverse
from ingot.importer.ops.contrib import move as move
from ingot.importer.ops.contrib import multihead as multihead
from ingot.importer.ops.contrib import normalize as normalize
from ingot.importer.ops.contrib import paged as paged
from ingot.importer.ops.contrib import qlinear as qlinear
from ingot.importer.ops.contrib import rotary as rotary
