# SPDX-License-Identifier: Apache-2.0
"""The networks whose maps are treated: how pictures reach them, and which maps these are.

The published ones are SqueezeNet 1.1 on ImageNet, whose squeezed maps of fire2 and fire3 the
authors' files treat, MobileNetV2 on ImageNet, and a detector with SqueezeNet's layers on VOC.
Ours: in the other two networks the first two bottlenecks, the maps of few channels that expansions
read; the detector is YOLO-Fastest, whose layers are those of MobileNetV2.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinmaps.types import Preprocessing


@dataclass(frozen=True)
class Subject:
    """One network.

    Attributes:
        network: as its ONNX file is called.
        side: of the square pictures that it is judged on.
        preprocessing: of these.
        maps: the treated ones, by their names in the ONNX file.
        shapes: of these, rows, columns and channels.
        hint: a map behind them that a student learns as well as the answers, by its own name.
        stored_side: of the pictures that a student's windows are cut from.
        weights: of a PyTorch module, which is then trained in place of the ONNX file.
        anchors: a detector's, in a Darknet file.
    """

    network: str
    side: int
    preprocessing: Preprocessing
    maps: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    hint: str
    stored_side: int = 256
    weights: str = ""
    anchors: str = ""

    @property
    def model(self) -> str:
        """The ONNX file, in the folder of networks and pictures."""
        return f"models/{self.network}.onnx"

    @property
    def prefix(self) -> str:
        """What figures of it begin with; the authors' own network has none."""
        return "" if self.weights else f"{self.network}, "


SQUEEZENET = Subject(
    "squeezenet1_1",
    227,  # the authors' crop, for which the treated maps have 56 x 56 pixels
    Preprocessing(),
    ("relu_1", "relu_4"),
    ((56, 56, 16), (56, 56, 16)),
    "features.5",
    weights="weights/squeezenet1_1.safetensors",
)
MOBILENET = Subject(
    "mobilenet_v2",
    224,
    Preprocessing((0.5,) * 3, (0.5,) * 3),
    ("getitem_6", "getitem_15"),
    ((112, 112, 16), (56, 56, 24)),
    "getitem_33",
)
DETECTOR = Subject(
    "yolo_fastest_xl_voc",
    320,
    Preprocessing((0.0,) * 3, (1.0,) * 3, fit="stretch"),
    ("getitem_9", "add"),
    ((160, 160, 8), (160, 160, 8)),
    "getitem_54",
    stored_side=320,
    anchors="weights/yolo_fastest_xl_voc.cfg",
)
SUBJECTS = {each.network: each for each in (SQUEEZENET, MOBILENET, DETECTOR)}
