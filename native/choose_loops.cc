// SPDX-License-Identifier: Apache-2.0
// The inner loops of the instruction set that runs; results never depend on it.
#include "conv_row.h"
#include "loops.h"
#include "scaled_tile.h"
#include "sparse_row.h"
#include "winograd_exact_loops.h"

namespace thinmaps {

extern const Loops kPortableLoops;
extern const ConvLoops kPortableConvLoops;
extern const SparseLoops kPortableSparseLoops;
extern const TileLoops kPortableTileLoops;
extern const WinogradExactLoops kPortableWinogradExactLoops;
#if defined(__x86_64__)
extern const Loops kAvx2Loops;
extern const Loops kAvx512Loops;
extern const ConvLoops kAvx2ConvLoops;
extern const ConvLoops kAvx512ConvLoops;
extern const ConvLoops kAmxConvLoops;
extern const SparseLoops kAvx2SparseLoops;
extern const SparseLoops kAvx512SparseLoops;
extern const TileLoops kAvx2TileLoops;
extern const TileLoops kAvx512TileLoops;
extern const WinogradExactLoops kAvx2WinogradExactLoops;
extern const WinogradExactLoops kAvx512WinogradExactLoops;
#elif defined(__aarch64__)
extern const Loops kNeonLoops;
extern const ConvLoops kNeonConvLoops;
#endif

const Loops& LoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kAvx512Loops;
  if (isa == Isa::kAvx2) return kAvx2Loops;
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) return kNeonLoops;
#endif
  (void)isa;
  return kPortableLoops;
}

const ConvLoops& ConvLoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return kAmxConvLoops;
  if (isa == Isa::kAvx512) return kAvx512ConvLoops;
  if (isa == Isa::kAvx2) return kAvx2ConvLoops;
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) return kNeonConvLoops;
#endif
  (void)isa;
  return kPortableConvLoops;
}

const SparseLoops& SparseLoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kAvx512SparseLoops;
  if (isa == Isa::kAvx2) return kAvx2SparseLoops;
#endif
  (void)isa;
  return kPortableSparseLoops;
}

const TileLoops& TileLoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kAvx512TileLoops;
  if (isa == Isa::kAvx2) return kAvx2TileLoops;
#endif
  (void)isa;
  return kPortableTileLoops;
}

const WinogradExactLoops& WinogradExactLoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kAvx512WinogradExactLoops;
  if (isa == Isa::kAvx2) return kAvx2WinogradExactLoops;
#endif
  (void)isa;
  return kPortableWinogradExactLoops;
}

}  // namespace thinmaps
