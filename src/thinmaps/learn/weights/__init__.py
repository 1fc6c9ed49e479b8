# SPDX-License-Identifier: Apache-2.0
"""Methods on the weight side: pruning, balancing, quantising, filters from codes.

    maps         differentiable maps on weights and feature maps that end in a hard state
    constraint   wishes with multipliers; measures says what they are about
    schedule     numbers that follow the share of a run
    recipe       fit soft, harden, fine-tune

    mac_pruning            an error allowance from each layer's operations, untrained
    self_pruning           thresholds whose sharpness and width are learnt; soft thresholds
    balanced_sparsity      equally many weights in every group; SR-STE
    ovsf                   filters from coefficients of binary codes
    joint_prune_quantise   thresholds and bit widths of weights and maps; dead_zone is its peer
    lagrangian_norm        statistics held by constraints in place of batch norms

A method is one file: its map, its formulas with their source, and a function that attaches it to
a network. What comes out is a plain module, which `prepare` and `compress` take as it is.
"""
