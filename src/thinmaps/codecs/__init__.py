# SPDX-License-Identifier: Apache-2.0
"""One map to bytes and back: every codec, its contract (`base.py`), and how to find one."""
