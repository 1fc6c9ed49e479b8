# SPDX-License-Identifier: Apache-2.0
"""Runs a plan: `interpret.py` defines what it means, `engine.py` is fast; both give equal bits."""
