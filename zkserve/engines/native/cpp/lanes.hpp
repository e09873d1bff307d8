// Coordinates in lanes: the same operation on several points at once.
//
// A `Lanes` type works on `width` coordinates. Both here keep what is stored in memory as Fq is
// (Montgomery form, R = 2^256, canonical), so that nothing is converted between them. In between,
// a Value may be any representative below the bound that the comment of its operation gives, in
// units of q; `multiply` needs the product of its factors' bounds below 5.2 and gives one below 2.
#pragma once

#include <cstdint>

#include "curve.hpp"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512IFMA__)
#include <immintrin.h>
#define ZKSERVE_IFMA 1
#endif

namespace zkserve {

constexpr uint32_t negated = 0x80000000;  // in the index of a point: take its negative

struct ScalarLanes {
  static constexpr int width = 1;
  using Value = Fq;
  struct Points {
    Fq x, y;
  };

  static Points load(const G1Affine* from, const uint32_t* index) {
    const G1Affine& point = from[*index & ~negated];
    return {point.x, *index & negated ? -point.y : point.y};
  }
  static void store(G1Affine* to, const uint32_t* index, uint32_t mask, const Value& x, const Value& y) {
    if (mask) to[*index] = G1Affine(x, y);
  }
  static Value one() { return Fq::one(); }
  static Value multiply(const Value& a, const Value& b) { return a * b; }
  static Value subtract(const Value& a, const Value& b) { return a - b; }
  static Value abscissa(const Value& square, const Value& x1, const Value& x2) { return square - x1 - x2; }
  static Value ordinate(const Value& product, const Value& y1) { return product - y1; }
  static Value replace(const Value& a, uint32_t mask, const Value& b) { return mask ? b : a; }
  // The lanes whose points cannot be added by the formula for different points.
  static uint32_t exceptional(const Points& a, const Points& b) {
    return a.x == b.x || (a.x.is_zero() && a.y.is_zero()) || (b.x.is_zero() && b.y.is_zero());
  }
  static void extract(const Value& a, Fq out[width]) { out[0] = a; }
  static Value insert(const Fq in[width]) { return in[0]; }
};

#if defined(ZKSERVE_IFMA)

// Eight lanes on five limbs of 52 bits, for the multiply-and-add instructions of AVX-512 IFMA.
// Method: Gueron and Krasnov, "Accelerating Big Integer Arithmetic Using Intel IFMA Extensions"
// (ARITH 2016), here with eight numbers side by side.
struct IfmaLanes {
  static constexpr int width = 8;
  struct Value {
    __m512i limb[5];
  };
  struct Points {
    Value x, y;
  };

  static Points load(const G1Affine* from, const uint32_t* index) {
    __m512i rows[8];
    uint32_t negative = 0;
    for (int i = 0; i < 8; i++) {
      rows[i] = _mm512_loadu_si512(from + (index[i] & ~negated));
      negative |= index[i] >> 31 << i;
    }
    transpose(rows);
    Points points{split(rows), split(rows + 4)};
    if (negative) {
      Value minus = constant(1);
      for (int i = 0; i < 5; i++) minus.limb[i] = _mm512_sub_epi64(minus.limb[i], points.y.limb[i]);
      points.y = replace(points.y, negative, carry(minus));
    }
    return points;
  }
  // Both canonical; to[index[i]] for the lanes of mask.
  static void store(G1Affine* to, const uint32_t* index, uint32_t mask, const Value& x, const Value& y) {
    __m512i rows[8];
    join(x, rows);
    join(y, rows + 4);
    transpose(rows);
    for (int i = 0; i < 8; i++)
      if (mask >> i & 1) _mm512_storeu_si512(to + index[i], rows[i]);
  }

  static Value one() {
    const Fq value = Fq::one();
    Fq all[8] = {value, value, value, value, value, value, value, value};
    return insert(all);
  }

  // a b / 2^256, below 1 + 0.19 times the product of the bounds.
  static Value multiply(const Value& a, const Value& b) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i t[10] = {zero, zero, zero, zero, zero, zero, zero, zero, zero, zero};
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
#pragma GCC unroll 5
      for (int j = 0; j < 5; j++) {
        t[i + j] = _mm512_madd52lo_epu64(t[i + j], a.limb[i], b.limb[j]);
        t[i + j + 1] = _mm512_madd52hi_epu64(t[i + j + 1], a.limb[i], b.limb[j]);
      }
    }
    // Reduction divides by 2^260; R is 2^256.
#pragma GCC unroll 10
    for (int i = 0; i < 10; i++) t[i] = _mm512_slli_epi64(t[i], 4);
    const __m512i inverse = _mm512_set1_epi64(static_cast<int64_t>(Fq::negative_inverse() & mask52));
    const __m512i low_bits = _mm512_set1_epi64(mask52);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
      __m512i k = _mm512_madd52lo_epu64(zero, t[i], inverse);
      // Limb i becomes a multiple of 2^52, the next one; so its sum need not be formed.
      __m512i over = _mm512_srli_epi64(_mm512_add_epi64(t[i], low_bits), 52);
      t[i + 1] = _mm512_add_epi64(t[i + 1], over);
      t[i + 1] = _mm512_madd52hi_epu64(t[i + 1], k, modulus(0));
#pragma GCC unroll 4
      for (int j = 1; j < 5; j++) {
        t[i + j] = _mm512_madd52lo_epu64(t[i + j], k, modulus(j));
        t[i + j + 1] = _mm512_madd52hi_epu64(t[i + j + 1], k, modulus(j));
      }
    }
    return carry({{t[5], t[6], t[7], t[8], t[9]}});
  }
  // a - b of canonical ones: below 2.
  static Value subtract(const Value& a, const Value& b) {
    Value d;
    for (int i = 0; i < 5; i++)
      d.limb[i] = _mm512_add_epi64(_mm512_sub_epi64(a.limb[i], b.limb[i]), modulus(i));
    return carry(d);
  }
  // square - x1 - x2, canonical; square below 2, the others canonical.
  static Value abscissa(const Value& square, const Value& x1, const Value& x2) {
    Value d;
    for (int i = 0; i < 5; i++)
      d.limb[i] = _mm512_sub_epi64(_mm512_sub_epi64(square.limb[i], x1.limb[i]), x2.limb[i]);
    return canonical(d, 2);  // in (-2, 2) so far
  }
  // product - y1, canonical; product below 2, y1 canonical.
  static Value ordinate(const Value& product, const Value& y1) {
    Value d;
    for (int i = 0; i < 5; i++) d.limb[i] = _mm512_sub_epi64(product.limb[i], y1.limb[i]);
    return canonical(d, 1);  // in (-1, 2) so far
  }
  static Value replace(const Value& a, uint32_t mask, const Value& b) {
    Value out;
    for (int i = 0; i < 5; i++)
      out.limb[i] = _mm512_mask_mov_epi64(a.limb[i], static_cast<__mmask8>(mask), b.limb[i]);
    return out;
  }
  static uint32_t exceptional(const Points& a, const Points& b) {
    __m512i differ = _mm512_setzero_si512(), a_bits = differ, b_bits = differ;
    for (int i = 0; i < 5; i++) {
      differ = _mm512_or_si512(differ, _mm512_xor_si512(a.x.limb[i], b.x.limb[i]));
      a_bits = _mm512_or_si512(a_bits, a.x.limb[i]);
      b_bits = _mm512_or_si512(b_bits, b.x.limb[i]);
    }
    // On this curve x = 0 is not on it (3 is no square), so x = 0 alone says infinity.
    return _mm512_testn_epi64_mask(differ, differ) | _mm512_testn_epi64_mask(a_bits, a_bits) |
           _mm512_testn_epi64_mask(b_bits, b_bits);
  }
  static void extract(const Value& a, Fq out[width]) {
    // Bounds below 2 fit 256 bits; Fq's product with one makes them canonical.
    alignas(64) uint64_t limbs[5][8];
    for (int i = 0; i < 5; i++) _mm512_store_si512(limbs[i], a.limb[i]);
    for (int i = 0; i < 8; i++) {
      Fq raw{{limbs[0][i] | limbs[1][i] << 52, limbs[1][i] >> 12 | limbs[2][i] << 40,
              limbs[2][i] >> 24 | limbs[3][i] << 28, limbs[3][i] >> 36 | limbs[4][i] << 16}};
      out[i] = raw * Fq::one();
    }
  }
  static Value insert(const Fq in[width]) {
    __m512i rows[4];
    for (int j = 0; j < 4; j++)
      rows[j] = _mm512_set_epi64(in[7].v[j], in[6].v[j], in[5].v[j], in[4].v[j], in[3].v[j], in[2].v[j], in[1].v[j],
                                 in[0].v[j]);
    return split(rows);
  }

 private:
  static constexpr uint64_t mask52 = (uint64_t{1} << 52) - 1;

  static constexpr uint64_t modulus_limb(int i) {
    const auto& m = Fq::modulus();
    int word = 52 * i / 64, shift = 52 * i % 64;
    uint64_t limb = m[word] >> shift;
    if (shift > 12 && word < 3) limb |= m[word + 1] << (64 - shift);
    return limb & mask52;
  }
  static __m512i modulus(int i) { return _mm512_set1_epi64(static_cast<int64_t>(modulus_limb(i))); }
  static Value constant(int multiple) {
    Value out;
    for (int i = 0; i < 5; i++) out.limb[i] = _mm512_set1_epi64(static_cast<int64_t>(multiple * modulus_limb(i)));
    return out;
  }
  // Signed limbs to limbs of 52 bits; the top one keeps the sign.
  static Value carry(Value a) {
    const __m512i low_bits = _mm512_set1_epi64(mask52);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      a.limb[i + 1] = _mm512_add_epi64(a.limb[i + 1], _mm512_srai_epi64(a.limb[i], 52));
      a.limb[i] = _mm512_and_si512(a.limb[i], low_bits);
    }
    return a;
  }
  // For a value in (-below, 2) on signed limbs, below being 1 or 2: the canonical one.
  static Value canonical(Value a, int below) {
    a = carry(a);
    if (below == 2) a = carry(add_if_negative(a, 2));
    else a = carry(add_if_negative(a, 1));
    // Now in [0, 2): take q once and give it back where that was too much.
    for (int i = 0; i < 5; i++) a.limb[i] = _mm512_sub_epi64(a.limb[i], modulus(i));
    return carry(add_if_negative(carry(a), 1));
  }
  static Value add_if_negative(const Value& a, int multiple) {
    __mmask8 negative = _mm512_movepi64_mask(a.limb[4]);
    Value out, more = constant(multiple);
    for (int i = 0; i < 5; i++) out.limb[i] = _mm512_mask_add_epi64(a.limb[i], negative, a.limb[i], more.limb[i]);
    return out;
  }

  // Four rows of 64 bits to five limbs of 52, and back.
  static Value split(const __m512i rows[4]) {
    const __m512i low_bits = _mm512_set1_epi64(mask52);
    auto both = [&](int low, int right, int left) {
      return _mm512_and_si512(
          _mm512_or_si512(_mm512_srli_epi64(rows[low], right), _mm512_slli_epi64(rows[low + 1], left)), low_bits);
    };
    return {{_mm512_and_si512(rows[0], low_bits), both(0, 52, 12), both(1, 40, 24), both(2, 28, 36),
             _mm512_srli_epi64(rows[3], 16)}};
  }
  static void join(const Value& a, __m512i rows[4]) {
    const __m512i* l = a.limb;
    rows[0] = _mm512_or_si512(l[0], _mm512_slli_epi64(l[1], 52));
    rows[1] = _mm512_or_si512(_mm512_srli_epi64(l[1], 12), _mm512_slli_epi64(l[2], 40));
    rows[2] = _mm512_or_si512(_mm512_srli_epi64(l[2], 24), _mm512_slli_epi64(l[3], 28));
    rows[3] = _mm512_or_si512(_mm512_srli_epi64(l[3], 36), _mm512_slli_epi64(l[4], 16));
  }
  // Eight rows of eight words to their columns.
  static void transpose(__m512i r[8]) {
    __m512i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
      a[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
      a[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
    }
    for (int i = 0; i < 2; i++) {
      b[i] = _mm512_shuffle_i64x2(a[i], a[i + 2], 0x88);
      b[i + 2] = _mm512_shuffle_i64x2(a[i], a[i + 2], 0xdd);
      b[i + 4] = _mm512_shuffle_i64x2(a[i + 4], a[i + 6], 0x88);
      b[i + 6] = _mm512_shuffle_i64x2(a[i + 4], a[i + 6], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
      r[i] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0x88);
      r[i + 4] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0xdd);
    }
  }
};

using FastLanes = IfmaLanes;
#else
using FastLanes = ScalarLanes;
#endif

}  // namespace zkserve
