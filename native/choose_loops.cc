// SPDX-License-Identifier: Apache-2.0
// The inner loops of the instruction set that runs; results never depend on it.
#include "loops.h"

namespace thinmaps {

extern const Loops kPortableLoops;
#if defined(__x86_64__)
extern const Loops kAvx2Loops;
extern const Loops kAvx512Loops;
#endif

const Loops& LoopsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return kAvx512Loops;
  if (isa == Isa::kAvx2) return kAvx2Loops;
#endif
  (void)isa;
  return kPortableLoops;
}

}  // namespace thinmaps
