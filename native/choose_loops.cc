// SPDX-License-Identifier: Apache-2.0
// The inner loops of the instruction set that runs; results never depend on it.
#include "conv_row.h"
#include "loops.h"
#include "sparse_row.h"

namespace thinmaps {

extern const Loops kPortableLoops;
extern const ConvLoops kPortableConvLoops;
extern const SparseLoops kPortableSparseLoops;
#if defined(__x86_64__)
extern const Loops kAvx2Loops;
extern const Loops kAvx512Loops;
extern const ConvLoops kAvx2ConvLoops;
extern const ConvLoops kAvx512ConvLoops;
extern const ConvLoops kAmxConvLoops;
extern const SparseLoops kAvx2SparseLoops;
extern const SparseLoops kAvx512SparseLoops;
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

}  // namespace thinmaps
