// SPDX-License-Identifier: Apache-2.0
// Convolutions of 3x3 taps and stride 1 in float32, by the algorithms of winograd_transforms.h.
//
// Filters are transformed once. A run holds one block of tiles at a time: its scratch depends on
// the channels, not on the map, and is known beforehand.
#pragma once

#include <cstdint>
#include <span>

#include "winograd_loops.h"

namespace thinmaps {

// In the order of `WinogradLoops::run`.
std::span<const WinogradSizes> WinogradAlgorithms();

// Floats that PackWinogradFilters writes: all points of all filters, their number rounded up to
// whole vectors.
int64_t WinogradFilterFloats(int32_t algorithm, Isa isa, int32_t inputs, int32_t outputs);

// Filters [output][input][3][3] to panels [point][input][channels of the panel], transformed in
// float64.
void PackWinogradFilters(int32_t algorithm, Isa isa, const float* weights, int32_t inputs,
                         int32_t outputs, float* packed);

// Tiles of a block: as many as fit the cache beside each other.
int32_t WinogradBlockTiles(int32_t algorithm, Isa isa, int32_t inputs, int32_t outputs);

// Floats of scratch for blocks of so many tiles.
int64_t WinogradScratchFloats(int32_t algorithm, Isa isa, int32_t inputs, int32_t outputs,
                              int32_t block_tiles);

}  // namespace thinmaps
