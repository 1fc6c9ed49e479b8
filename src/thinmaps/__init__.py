# SPDX-License-Identifier: Apache-2.0
"""thinmaps runs trained convolutional networks in a fraction of the memory."""
