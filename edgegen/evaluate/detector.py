"""A small detector of the things in scenes: where, which, in what colour, how large. It judges drawn pictures.

Shapes: B batch, H = W = 128 pixels, g = H / 8 cells a side, K classes of thing and one of 'other'.
An anchor-free detector of centres: Zhou, Wang and Krahenbuhl, "Objects as Points", arXiv 1904.07850.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 8  # pixels of a side of one cell
OTHER = "other"  # a thing that is none of the known ones
PLAIN = ""  # the colour of a thing as it is drawn


@dataclass(frozen=True)
class DetectorConfig:
    """Classes in the order of the outputs; OTHER is the last class and PLAIN the first colour."""

    classes: tuple[str, ...]
    colours: tuple[str, ...]
    widths: tuple[int, int, int, int] = (24, 64, 96, 128)  # channels at 1/2, 1/4, 1/8 and 1/16 of the picture's side

    def __post_init__(self) -> None:
        for name in ("classes", "colours", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists when read from JSON


@dataclass(frozen=True)
class Detection:
    """One thing found: centre x, y and side as shares of the picture, and how sure the detector is of both."""

    concept: str
    colour: str  # PLAIN: as it is drawn
    x: float
    y: float
    size: float
    confidence: float


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Detector(nn.Module):
    """Pictures (B,3,H,W) in [0,1] to a map (B,O,g,g): heat, offset x, y, log size, then class and colour logits."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.config = config
        first, second, third, fourth = config.widths
        self.stem = nn.Sequential(conv(3, first, 2), conv(first, second, 2), conv(second, third, 2))
        self.near = nn.Sequential(conv(third, third), conv(third, third))
        self.far = nn.Sequential(conv(third, fourth, 2), conv(fourth, fourth), conv(fourth, fourth))
        self.lift = nn.Conv2d(fourth, third, 1)
        self.head = conv(third, third)
        self.out = nn.Conv2d(third, 4 + len(config.classes) + len(config.colours), 1)
        nn.init.constant_(self.out.bias[:1], -3.0)  # few cells hold a centre

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.stem(pictures - 0.5)  # (B,third,g,g)
        x = x + self.near(x)
        x = x + F.interpolate(self.lift(self.far(x)), scale_factor=2.0, mode="nearest")
        return self.out(self.head(x))  # (B,O,g,g)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heat logits (B,g,g), box (B,3,g,g), class logits (B,K+1,g,g) and colour logits of a map."""
        classes = 4 + len(self.config.classes)
        return outputs[:, 0], outputs[:, 1:4], outputs[:, 4:classes], outputs[:, classes:]


@torch.no_grad()
def detect(detector: Detector, pictures: Tensor, threshold: float = 0.3, batch: int = 64) -> list[list[Detection]]:
    """Things in each picture (B,3,H,W), the surest first; `threshold` is on the heat of a centre."""
    found = []
    for part in pictures.split(batch):
        outputs = detector(part)
        found += [decode(detector, one[None], threshold) for one in outputs]
    return found


def decode(detector: Detector, outputs: Tensor, threshold: float) -> list[Detection]:
    """The things of one map (1,O,g,g): local maxima of the heat, less those that lie inside a surer one."""
    heat, box, classes, colours = detector.split(outputs)
    heat = heat.sigmoid()[0]  # (g,g)
    peaks = heat == F.max_pool2d(heat[None, None], 3, 1, 1)[0, 0]
    rows, columns = torch.nonzero(peaks & (heat > threshold), as_tuple=True)
    grid = len(heat)
    found: list[Detection] = []
    for index in heat[rows, columns].argsort(descending=True).tolist():
        r, c = int(rows[index]), int(columns[index])
        across, down, log_size = box[0, :, r, c].tolist()
        sure, which = classes[0, :, r, c].softmax(0).max(0)
        x, y, size = (c + 0.5 + across) / grid, (r + 0.5 + down) / grid, min(2.0**log_size, 1.5)
        if all(max(abs(x - one.x), abs(y - one.y)) > 0.3 * (size + one.size) for one in found):
            colour = detector.config.colours[int(colours[0, :, r, c].argmax())]
            found.append(Detection(detector.config.classes[int(which)], colour, x, y, size, float(heat[r, c] * sure)))
    return sorted(found, key=lambda one: -one.confidence)
