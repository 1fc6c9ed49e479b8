# SPDX-License-Identifier: Apache-2.0
"""A float network and pictures -> a uint8 `Network` that keeps its accuracy."""

from thinmaps.calibrate.calibration import Calibration, calibrate
from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures

__all__ = ["Calibration", "PictureSet", "calibrate", "network_values", "open_pictures"]
