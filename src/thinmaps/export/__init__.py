# SPDX-License-Identifier: Apache-2.0
"""Back out: a network as standard ONNX, each codec a function of standard operators."""
