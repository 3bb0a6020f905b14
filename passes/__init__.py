"""Float graph rewrites over ``onnx_ir.Model``, one file each, and the order they run in."""

from __future__ import annotations

import onnx_ir as ir

from clio_cc.passes.canonicalize_windows import CanonicalizeWindows
from clio_cc.passes.convert_scale_to_depthwise import ConvertScaleToDepthwise
from clio_cc.passes.convert_to_gemm import ConvertToGemm
from clio_cc.passes.fold_constants import FoldConstants
from clio_cc.passes.fold_pad import FoldPad
from clio_cc.passes.fold_scale_bias import FoldScaleBias
from clio_cc.passes.fuse_activations import FuseActivations
from clio_cc.passes.lower_batchnorm import LowerBatchnorm
from clio_cc.passes.lower_means import LowerMeans
from clio_cc.passes.lower_reshapes import LowerReshapes
from clio_cc.passes.move_transposes import MoveTransposes
from clio_cc.passes.name_nodes import NameNodes
from clio_cc.passes.normalize_arithmetic import NormalizeArithmetic
from clio_cc.passes.normalize_clip import NormalizeClip
from clio_cc.passes.remove_noops import RemoveNoops

__all__ = ["FLOAT_PIPELINE"]

FLOAT_PIPELINE: tuple[ir.passes.InPlacePass, ...] = (
    NameNodes(),  # first: every later pass names what it makes after a node
    FoldConstants(),  # weights behind Identity or Cast become initializers, which all folding below looks for
    NormalizeArithmetic(),  # before any pattern: fewer spellings to match
    NormalizeClip(),  # before fuse-activations, whose patterns hold Clip(x, 0, 6)
    FuseActivations(),
    RemoveNoops(),  # before transposes move: a Dropout or Identity must not stop them
    LowerReshapes(),  # before transposes move: it finds those that hide in a Reshape
    MoveTransposes(),
    LowerMeans(),  # after it: a mean over H, W of NHWC data has become one over the last two axes
    CanonicalizeWindows(),  # explicit pads and bias, which the next ones add to
    FoldPad(),
    ConvertToGemm(),
    LowerBatchnorm(),  # Mul + Add, so that one pass folds BatchNormalization and hand-written scales alike
    FoldScaleBias(),
    ConvertScaleToDepthwise(),  # only what fold-scale-bias had to leave
    RemoveNoops(name="remove-leftovers"),  # Adds of 0 and Muls by 1 that lower-batchnorm made
    NameNodes(name="name-nodes-again"),  # last: names are final, and unique, from here on
)
