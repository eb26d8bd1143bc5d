"""The operators of ai.onnx.ml: classical machine learning. Importing this package registers them all."""

from ingot.importer.ops.ml import features as features
from ingot.importer.ops.ml import labels as labels
from ingot.importer.ops.ml import linear as linear
from ingot.importer.ops.ml import maps as maps
from ingot.importer.ops.ml import svm as svm
from ingot.importer.ops.ml import tree_ensemble as tree_ensemble
