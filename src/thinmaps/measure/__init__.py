# SPDX-License-Identifier: Apache-2.0
"""Bytes, traffic, accuracy, time: predicted beside counted, ours beside a peer, shown."""
