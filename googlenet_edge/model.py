"""GoogLeNet (Inception v1) with batch normalization and both auxiliary classifiers.

The architecture is table 1 of Szegedy et al., "Going Deeper with Convolutions" (arXiv 1409.4842), with batch
normalization (arXiv 1502.03167) in place of local response normalization. State-dict names, shapes and outputs equal
those of torchvision's ``googlenet``, so its published weights load as they are.

Shapes in the comments are those of a float32 ``(N, 3, 224, 224)`` input and of the paper's widths. Any side from 32
pixels works.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from googlenet_edge.convolution import convolution

BATCH_NORM_EPSILON = 1e-3

Width = Annotated[int, Meta(ge=1, le=4096)]
"""Output channels of a convolution; the limits hold for what is read from a file."""


@dataclass(frozen=True, slots=True)
class InceptionWidths:
    """The columns of table 1: #1×1, (#3×3 reduce, #3×3), (#5×5 reduce, #5×5), pool proj."""

    c1: Width
    c3: tuple[Width, Width]
    c5: tuple[Width, Width]
    pool: Width

    @property
    def out(self) -> int:
        """Channels of the four branches side by side."""
        return self.c1 + self.c3[1] + self.c5[1] + self.pool


@dataclass(frozen=True, slots=True)
class Widths:
    """The output channels of every convolution. The defaults are those of the paper, table 1."""

    conv1: Width = 64
    conv2: Width = 64
    conv3: Width = 192
    #                                              #1×1  #3×3 r, #3×3   #5×5 r, #5×5   pool proj
    inception3a: InceptionWidths = InceptionWidths( 64,  (96, 128),     (16, 32),      32)  # fmt: skip
    inception3b: InceptionWidths = InceptionWidths(128,  (128, 192),    (32, 96),      64)  # fmt: skip
    inception4a: InceptionWidths = InceptionWidths(192,  (96, 208),     (16, 48),      64)  # fmt: skip
    inception4b: InceptionWidths = InceptionWidths(160,  (112, 224),    (24, 64),      64)  # fmt: skip
    inception4c: InceptionWidths = InceptionWidths(128,  (128, 256),    (24, 64),      64)  # fmt: skip
    inception4d: InceptionWidths = InceptionWidths(112,  (144, 288),    (32, 64),      64)  # fmt: skip
    inception4e: InceptionWidths = InceptionWidths(256,  (160, 320),    (32, 128),    128)  # fmt: skip
    inception5a: InceptionWidths = InceptionWidths(256,  (160, 320),    (32, 128),    128)  # fmt: skip
    inception5b: InceptionWidths = InceptionWidths(384,  (192, 384),    (48, 128),    128)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GoogLeNetConfig:
    """What may differ between two GoogLeNets.

    ``true_5x5`` gives the third branch the 5×5 kernel of the paper. The default is the 3×3 kernel that torchvision's
    published weights have (a slip in the port from TensorFlow that became the standard). ``widths`` are those of the
    paper unless the network was slimmed.
    """

    num_classes: int = 1000
    dropout: float = 0.2
    aux_dropout: float = 0.7
    true_5x5: bool = False
    widths: Widths = field(default_factory=Widths)


class Outputs(NamedTuple):
    """float32 logits ``(N, num_classes)`` of the main and of both auxiliary classifiers."""

    logits: Tensor
    aux1: Tensor
    aux2: Tensor


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch normalization, ReLU: the only layer with weights outside the classifiers."""

    def __init__(self, cin: int, cout: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = convolution(cin, cout, kernel, stride=stride, padding=padding)
        self.bn = nn.BatchNorm2d(cout, eps=BATCH_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four views of one input, side by side: 1×1; 1×1 → 3×3; 1×1 → 5×5; pool → 1×1.

    ``(N, cin, H, W)`` becomes ``(N, widths.out, H, W)``.
    """

    def __init__(self, cin: int, widths: InceptionWidths, *, true_5x5: bool) -> None:
        super().__init__()
        c1, c3, c5, pool = widths.c1, widths.c3, widths.c5, widths.pool
        k5 = 5 if true_5x5 else 3
        self.branch1 = ConvBNReLU(cin, c1, 1)
        self.branch2 = nn.Sequential(ConvBNReLU(cin, c3[0], 1), ConvBNReLU(c3[0], c3[1], 3, padding=1))
        self.branch3 = nn.Sequential(ConvBNReLU(cin, c5[0], 1), ConvBNReLU(c5[0], c5[1], k5, padding=k5 // 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvBNReLU(cin, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryClassifier(nn.Module):
    """The side classifier that feeds gradient into the middle of the network; only training uses it."""

    def __init__(self, cin: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.conv = ConvBNReLU(cin, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (N, 512 or 528, 14, 14)
        x = F.adaptive_avg_pool2d(x, (4, 4))  # (N, 512 or 528, 4, 4)
        x = torch.flatten(self.conv(x), 1)  # (N, 2048)
        x = self.dropout(F.relu(self.fc1(x), inplace=True))  # (N, 1024)
        out: Tensor = self.fc2(x)  # (N, num_classes)
        return out


class GoogLeNet(nn.Module):
    """float32 ``(N, 3, H, W)`` in [-1, 1] → float32 logits ``(N, num_classes)``.

    ``forward`` is the network that is deployed; ``forward_with_aux`` the one that is trained.
    """

    def __init__(self, config: GoogLeNetConfig) -> None:
        super().__init__()
        self.config = config

        w = config.widths

        def inception(cin: int, widths: InceptionWidths) -> Inception:
            return Inception(cin, widths, true_5x5=config.true_5x5)

        self.conv1 = ConvBNReLU(3, w.conv1, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvBNReLU(w.conv1, w.conv2, 1)
        self.conv3 = ConvBNReLU(w.conv2, w.conv3, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.inception3a = inception(w.conv3, w.inception3a)
        self.inception3b = inception(w.inception3a.out, w.inception3b)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(w.inception3b.out, w.inception4a)
        self.inception4b = inception(w.inception4a.out, w.inception4b)
        self.inception4c = inception(w.inception4b.out, w.inception4c)
        self.inception4d = inception(w.inception4c.out, w.inception4d)
        self.inception4e = inception(w.inception4d.out, w.inception4e)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = inception(w.inception4e.out, w.inception5a)
        self.inception5b = inception(w.inception5a.out, w.inception5b)

        self.aux1 = AuxiliaryClassifier(w.inception4a.out, config.num_classes, dropout=config.aux_dropout)
        self.aux2 = AuxiliaryClassifier(w.inception4d.out, config.num_classes, dropout=config.aux_dropout)

        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(w.inception5b.out, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self._classify(self._inception4e_on(self._inception4b_to_4d(self._stem_to_4a(x))))

    def forward_with_aux(self, x: Tensor) -> Outputs:
        """Main and auxiliary logits; the auxiliary heads read the outputs of inception 4a and 4d."""
        after_4a = self._stem_to_4a(x)
        after_4d = self._inception4b_to_4d(after_4a)
        logits = self._classify(self._inception4e_on(after_4d))
        return Outputs(logits, self.aux1(after_4a), self.aux2(after_4d))

    def _stem_to_4a(self, x: Tensor) -> Tensor:  # (N, 3, 224, 224)
        x = self.conv1(x)  # (N, 64, 112, 112)
        x = self.maxpool1(x)  # (N, 64, 56, 56)
        x = self.conv2(x)  # (N, 64, 56, 56)
        x = self.conv3(x)  # (N, 192, 56, 56)
        x = self.maxpool2(x)  # (N, 192, 28, 28)
        x = self.inception3a(x)  # (N, 256, 28, 28)
        x = self.inception3b(x)  # (N, 480, 28, 28)
        x = self.maxpool3(x)  # (N, 480, 14, 14)
        x = self.inception4a(x)  # (N, 512, 14, 14)
        return x

    def _inception4b_to_4d(self, x: Tensor) -> Tensor:  # (N, 512, 14, 14)
        x = self.inception4b(x)  # (N, 512, 14, 14)
        x = self.inception4c(x)  # (N, 512, 14, 14)
        x = self.inception4d(x)  # (N, 528, 14, 14)
        return x

    def _inception4e_on(self, x: Tensor) -> Tensor:  # (N, 528, 14, 14)
        x = self.inception4e(x)  # (N, 832, 14, 14)
        x = self.maxpool4(x)  # (N, 832, 7, 7)
        x = self.inception5a(x)  # (N, 832, 7, 7)
        x = self.inception5b(x)  # (N, 1024, 7, 7)
        return x

    def _classify(self, x: Tensor) -> Tensor:  # (N, 1024, 7, 7)
        x = self.avgpool(x)  # (N, 1024, 1, 1)
        x = torch.flatten(x, 1)  # (N, 1024)
        x = self.dropout(x)
        out: Tensor = self.fc(x)  # (N, num_classes)
        return out
