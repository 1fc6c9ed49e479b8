# SPDX-License-Identifier: Apache-2.0
"""Networks of uint8 maps, and the one door in: ONNX."""
