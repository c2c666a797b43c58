"""Fold batch normalization into convolutions, for inference only.

In eval mode, batch normalization multiplies each channel by a factor and adds a value.
With other weights and a bias, the convolution before it alone gives the same result.
Convolutions and pooling are also faster if the channels of a pixel are adjacent in
memory (channels last). Folding and channels last together reduced the time for four
orientations of an image on a CPU from 125 to 92 ms. The results change by 1e-6
(docs/performance.md).
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(features: nn.Module) -> nn.Module:
    """Fold each batch normalization into the convolution directly before it.

    Args:
        features: A module in eval mode. It is changed, and must not be trained
            afterwards.

    Returns:
        `features`, with the weights in channels-last order.
    """
    for module in features.modules():
        children = list(module.named_children())
        for (name, before), (next_name, after) in pairwise(children):
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(before, after))
                setattr(module, next_name, nn.Identity())
    return features.to(memory_format=torch.channels_last)
