# SPDX-License-Identifier: Apache-2.0
"""A float network and pictures -> a uint8 `Network` that keeps its accuracy.

Import from the modules: `picture_set` serves `eval` too, where onnx may be absent.
"""
