// Inversion modulo an odd prime below 2^254.
#pragma once

#include <cstdint>
#include <cstring>

namespace zkserve {

// out = scale / value mod m, for value in (0, m): Pornin, "Optimized Binary GCD for Modular
// Inversion" (IACR ePrint 2020/972). 31 steps of the binary algorithm run on approximations of a and
// b in one word each; their effect is one matrix, applied to a, b and to u, v with a u^-1 = b v^-1 =
// value / scale. Its number of steps depends on nothing but m's length.
inline void invert(uint64_t out[4], const uint64_t value[4], const uint64_t scale[4], const uint64_t (&m)[4],
                   uint64_t negative_inverse) {
  using i128 = __int128;
  constexpr int inner = 31, outer = 17;  // 17 * 31 >= 2 * 254 - 1
  constexpr uint64_t low_bits = (uint64_t{1} << inner) - 1;
  uint64_t a[4], b[4], u[4], v[4] = {0, 0, 0, 0};
  std::memcpy(a, value, 32);
  std::memcpy(b, m, 32);
  std::memcpy(u, scale, 32);

  // (x f + y g) of signed limbs, the last one the sign.
  auto combine = [](uint64_t r[5], const uint64_t x[4], int64_t f, const uint64_t y[4], int64_t g) {
    i128 sum = 0;
    for (int i = 0; i < 4; i++) {
      sum += static_cast<i128>(x[i]) * f + static_cast<i128>(y[i]) * g;
      r[i] = static_cast<uint64_t>(sum);
      sum >>= 64;
    }
    r[4] = static_cast<uint64_t>(sum);
  };
  auto shift = [](uint64_t r[5]) {
    for (int i = 0; i < 4; i++) r[i] = r[i] >> inner | r[i + 1] << (64 - inner);
    r[4] = static_cast<uint64_t>(static_cast<int64_t>(r[4]) >> inner);
  };
  // r += m on the mask, or r -= m.
  auto add = [&](uint64_t r[5], uint64_t mask) {
    i128 sum = 0;
    for (int i = 0; i < 4; i++) {
      sum += static_cast<i128>(r[i]) + (m[i] & mask);
      r[i] = static_cast<uint64_t>(sum);
      sum >>= 64;
    }
    r[4] += static_cast<uint64_t>(sum);
  };
  auto negate = [](uint64_t r[4], uint64_t mask) {
    i128 sum = mask & 1;
    for (int i = 0; i < 4; i++) {
      sum += r[i] ^ mask;
      r[i] = static_cast<uint64_t>(sum);
      sum >>= 64;
    }
  };
  auto update = [&](uint64_t r[5], const uint64_t x[4], int64_t f, const uint64_t y[4], int64_t g) {
    combine(r, x, f, y, g);
    uint64_t k = r[0] * negative_inverse & low_bits;
    i128 sum = 0;
    for (int i = 0; i < 4; i++) {
      sum += static_cast<i128>(m[i]) * static_cast<int64_t>(k) + r[i];
      r[i] = static_cast<uint64_t>(sum);
      sum >>= 64;
    }
    r[4] += static_cast<uint64_t>(sum);
    shift(r);  // in (-m, 2 m)
    add(r, 0 - (r[4] >> 63));
    uint64_t less[5];
    i128 difference = 0;
    for (int i = 0; i < 4; i++) {
      difference += static_cast<i128>(r[i]) - m[i];
      less[i] = static_cast<uint64_t>(difference);
      difference >>= 64;
    }
    uint64_t keep = static_cast<uint64_t>(difference);  // all ones where m was too much
    for (int i = 0; i < 4; i++) r[i] = (r[i] & keep) | (less[i] & ~keep);
  };

  for (int round = 0; round < outer; round++) {
    // The 33 top bits of both at the length of the longer one, and the 31 low ones, which are exact.
    int word = 3;
    while (word > 0 && (a[word] | b[word]) == 0) word--;
    uint64_t xa = a[0], xb = b[0];
    if (word > 0) {
      int empty = __builtin_clzll(a[word] | b[word]);
      auto top = [&](const uint64_t x[4]) {
        uint64_t high = empty ? x[word] << empty | x[word - 1] >> (64 - empty) : x[word];
        return (high & ~low_bits) | (x[0] & low_bits);
      };
      xa = top(a);
      xb = top(b);
    }
    int64_t f0 = 1, g0 = 0, f1 = 0, g1 = 1;
    for (int i = 0; i < inner; i++) {
      uint64_t odd = 0 - (xa & 1), swap = odd & (0 - static_cast<uint64_t>(xa < xb));
      uint64_t x = (xa ^ xb) & swap;
      xa ^= x, xb ^= x;
      int64_t f = (f0 ^ f1) & static_cast<int64_t>(swap), g = (g0 ^ g1) & static_cast<int64_t>(swap);
      f0 ^= f, f1 ^= f, g0 ^= g, g1 ^= g;
      xa = (xa - (xb & odd)) >> 1;
      f0 -= f1 & static_cast<int64_t>(odd), g0 -= g1 & static_cast<int64_t>(odd);
      f1 *= 2, g1 *= 2;
    }
    uint64_t next_a[5], next_b[5];
    combine(next_a, a, f0, b, g0);
    combine(next_b, a, f1, b, g1);
    shift(next_a);
    shift(next_b);
    uint64_t minus_a = 0 - (next_a[4] >> 63), minus_b = 0 - (next_b[4] >> 63);
    negate(next_a, minus_a);
    negate(next_b, minus_b);
    auto signed_by = [](int64_t x, uint64_t mask) {
      return (x ^ static_cast<int64_t>(mask)) - static_cast<int64_t>(mask);
    };
    std::memcpy(a, next_a, 32);
    std::memcpy(b, next_b, 32);
    uint64_t next_u[5], next_v[5];
    update(next_u, u, signed_by(f0, minus_a), v, signed_by(g0, minus_a));
    update(next_v, u, signed_by(f1, minus_b), v, signed_by(g1, minus_b));
    std::memcpy(u, next_u, 32);
    std::memcpy(v, next_v, 32);
  }
  std::memcpy(out, v, 32);
}

}  // namespace zkserve
