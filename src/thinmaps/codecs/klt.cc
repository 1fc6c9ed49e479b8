// SPDX-License-Identifier: Apache-2.0
// Native twin of klt.py; packed_blocks.h has the payload, transform.h the arithmetic.
#include "codec.h"
#include "packed_blocks.h"

namespace thinmaps {

extern const CodecKernel kKlt{"klt", Isa::kPortable, packed_blocks::Encode<PortableTransform>,
                              packed_blocks::Decode<PortableTransform>};
#if defined(__x86_64__)
extern const CodecKernel kKltAvx2{"klt", Isa::kAvx2, packed_blocks::EncodeAvx2,
                                  packed_blocks::DecodeAvx2};
extern const CodecKernel kKltAvx512{"klt", Isa::kAvx512, packed_blocks::EncodeAvx512,
                                    packed_blocks::DecodeAvx512};
#endif

}  // namespace thinmaps
