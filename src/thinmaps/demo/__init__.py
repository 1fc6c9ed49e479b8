# SPDX-License-Identifier: Apache-2.0
"""The whole main job on data that ships with the package; only the command line imports it."""
