"""Residual blocks with stochastic depth: torchvision's own, and those of models that others build."""

from .torchvision import StoDepthBasicBlock, StoDepthBottleneck

__all__ = ["StoDepthBasicBlock", "StoDepthBottleneck"]
