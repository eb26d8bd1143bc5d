"""The ONNX operators, by family. Importing this package registers them all."""

from ingot.importer.ops import activation as activation
from ingot.importer.ops import cast as cast
from ingot.importer.ops import control as control
from ingot.importer.ops import conv as conv
from ingot.importer.ops import create as create
from ingot.importer.ops import elementwise as elementwise
from ingot.importer.ops import grid as grid
from ingot.importer.ops import indexing as indexing
from ingot.importer.ops import integer as integer
from ingot.importer.ops import linear as linear
from ingot.importer.ops import logical as logical
from ingot.importer.ops import ml as ml
from ingot.importer.ops import move as move
from ingot.importer.ops import normalize as normalize
from ingot.importer.ops import pool as pool
from ingot.importer.ops import position as position
from ingot.importer.ops import quantize as quantize
from ingot.importer.ops import random as random
from ingot.importer.ops import recurrent as recurrent
from ingot.importer.ops import reduce as reduce
from ingot.importer.ops import resize as resize
from ingot.importer.ops import roi as roi
from ingot.importer.ops import sequence as sequence
from ingot.importer.ops import shape as shape
from ingot.importer.ops import signal as signal
from ingot.importer.ops import training as training
