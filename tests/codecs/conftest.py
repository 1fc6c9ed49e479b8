# SPDX-License-Identifier: Apache-2.0
"""`newcomer.py` is the file that a test installs as somebody else's package, not a test."""

collect_ignore = ["newcomer.py"]
