// SPDX-License-Identifier: Apache-2.0
#include "sha256.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include "intrinsics.h"
#endif

namespace thinmaps {
namespace {

constexpr size_t kBlockBytes = 64;
constexpr size_t kLengthBytes = 8;

using State = std::array<uint32_t, 8>;

// Fractional parts of the square roots of the first 8 primes, and of the cube roots of the
// first 64.
constexpr State kStart = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
alignas(16) constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t BigEndian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

void Compress(State& state, const uint8_t* block) {
  std::array<uint32_t, 64> w;
  for (size_t i = 0; i < 16; ++i) w[i] = BigEndian(block + 4 * i);
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t near = w[i - 15], far = w[i - 2];
    w[i] = w[i - 16] + (std::rotr(near, 7) ^ std::rotr(near, 18) ^ near >> 3) + w[i - 7] +
           (std::rotr(far, 17) ^ std::rotr(far, 19) ^ far >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t first = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                           ((e & f) ^ (~e & g)) + kRound[i] + w[i];
    const uint32_t second =
        (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const State words = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < words.size(); ++i) state[i] += words[i];
}

void CompressAll(State& state, const uint8_t* blocks, size_t count) {
  for (; count > 0; --count, blocks += kBlockBytes) Compress(state, blocks);
}

#if defined(__x86_64__)

// As CompressAll. The instructions want the words as (a b e f) and (c d g h), and do two rounds
// each; w holds the last 16 words of the schedule.
__attribute__((target("sha,sse4.1,ssse3"))) void CompressAllWithInstructions(State& state,
                                                                             const uint8_t* blocks,
                                                                             size_t count) {
  const auto word = [&](size_t i) { return static_cast<int32_t>(state[i]); };
  __m128i abef = _mm_set_epi32(word(0), word(1), word(4), word(5));
  __m128i cdgh = _mm_set_epi32(word(2), word(3), word(6), word(7));
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  for (; count > 0; --count, blocks += kBlockBytes) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (size_t i = 0; i < 4; ++i) {
      const auto* words = reinterpret_cast<const __m128i*>(blocks) + i;
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(words), swap);
    }
    for (size_t i = 0; i < 16; ++i) {
      const __m128i round = _mm_load_si128(reinterpret_cast<const __m128i*>(kRound.data()) + i);
      const __m128i sum = _mm_add_epi32(w[i % 4], round);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
      const __m128i last = w[(i + 3) % 4];
      const __m128i middle = _mm_alignr_epi8(last, w[(i + 2) % 4], 4);
      const __m128i near = _mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]);
      w[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(near, middle), last);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  std::array<uint32_t, 4> front, back;
  std::memcpy(front.data(), &abef, sizeof abef);
  std::memcpy(back.data(), &cdgh, sizeof cdgh);
  state = {front[3], front[2], back[3], back[2], front[1], front[0], back[1], back[0]};
}

// CPUID leaf 7, EBX bit 29; whoever asks for the portable loops gets them here too.
bool HasInstructions() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  return ChosenIsa() != Isa::kPortable && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 &&
         (b >> 29 & 1) != 0;
}

#endif

using Compressor = void (*)(State& state, const uint8_t* blocks, size_t count);

Compressor Choose() {
#if defined(__x86_64__)
  if (HasInstructions()) return CompressAllWithInstructions;
#endif
  return CompressAll;
}

// Bytes that come in pieces of any length, in whole blocks.
class Hasher {
 public:
  void Add(std::span<const uint8_t> bytes) {
    total_bytes_ += bytes.size();
    if (waiting_ > 0) bytes = bytes.subspan(Keep(bytes));
    const size_t blocks = bytes.size() / kBlockBytes;
    compress_(state_, bytes.data(), blocks);
    Keep(bytes.subspan(blocks * kBlockBytes));
  }

  std::array<uint8_t, 32> Finish() {
    // A one bit, zeros, and the length in bits fill the last block.
    std::array<uint8_t, kBlockBytes + kLengthBytes> end = {0x80};
    const uint64_t bits = 8 * total_bytes_;
    const size_t zeros = (2 * kBlockBytes - 1 - kLengthBytes - waiting_) % kBlockBytes;
    for (size_t i = 0; i < kLengthBytes; ++i) {
      end[1 + zeros + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    }
    Add({end.data(), 1 + zeros + kLengthBytes});
    std::array<uint8_t, 32> digest;
    for (size_t i = 0; i < digest.size(); ++i) {
      digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - i % 4 * 8));
    }
    return digest;
  }

 private:
  // Puts bytes with those that wait for a whole block; says how many.
  size_t Keep(std::span<const uint8_t> bytes) {
    const size_t count = std::min(bytes.size(), kBlockBytes - waiting_);
    std::copy_n(bytes.begin(), count, block_.begin() + static_cast<ptrdiff_t>(waiting_));
    waiting_ += count;
    if (waiting_ == kBlockBytes) {
      compress_(state_, block_.data(), 1);
      waiting_ = 0;
    }
    return count;
  }

  Compressor compress_ = Choose();
  State state_ = kStart;
  std::array<uint8_t, kBlockBytes> block_;
  size_t waiting_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace

std::array<uint8_t, 32> Sha256(std::initializer_list<std::span<const uint8_t>> parts) {
  Hasher hasher;
  for (const auto& part : parts) hasher.Add(part);
  return hasher.Finish();
}

}  // namespace thinmaps
