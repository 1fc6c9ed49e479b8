# SPDX-License-Identifier: Apache-2.0
"""Which map is held how: what each codec would cost on each map, and the best allocation of all.

    choices    one map: every codec and setting on it, in bytes and in error of the network's output
    lagrange   all maps: the allocations that no other beats, from lossless down
    arena      the same for an arena, whose bytes are not a sum over maps

Nothing here runs the network; who calls it evaluates what it proposes.
"""
