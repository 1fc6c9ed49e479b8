# SPDX-License-Identifier: Apache-2.0
"""From a `Network` to a `Plan`: a schedule, a codec per edge, and every byte of the arena."""
