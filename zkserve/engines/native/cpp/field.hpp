// The prime fields of BN254, in Montgomery form on four 64-bit limbs (R = 2^256).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "field_x86.hpp"
#include "inverse.hpp"
#include "wipe.hpp"

namespace zkserve {

using u128 = unsigned __int128;

// The order p of G1: the field of scalars.
struct ScalarModulus {
  static constexpr uint64_t limbs[4] = {0x43e1f593f0000001, 0x2833e84879b97091, 0xb85045b68181585d,
                                        0x30644e72e131a029};
};

// The base field's order q: the field of coordinates.
struct BaseModulus {
  static constexpr uint64_t limbs[4] = {0x3c208c16d87cfd47, 0x97816a916871ca8d, 0xb85045b68181585d,
                                        0x30644e72e131a029};
};

template <class Modulus>
struct Field {
  uint64_t v[4];

  static constexpr const uint64_t (&modulus())[4] { return Modulus::limbs; }

  static constexpr Field zero() { return {{0, 0, 0, 0}}; }
  static constexpr Field one() { return power_of_two(256); }
  static Field from_u64(uint64_t value) { return Field{{value, 0, 0, 0}} * r_squared; }
  static Field from_i64(int64_t value) {
    Field magnitude = from_u64(value < 0 ? 0 - static_cast<uint64_t>(value) : value);
    return value < 0 ? -magnitude : magnitude;
  }
  static Field from_limbs(const uint64_t canonical[4]) {
    return Field{{canonical[0], canonical[1], canonical[2], canonical[3]}} * r_squared;
  }
  static Field inv2() {
    static const Field half = from_u64(2).inverse();
    return half;
  }

  // Big-endian; false, and `out` untouched, unless canonical.
  static bool from_bytes(const uint8_t in[32], Field& out) {
    Field raw = load(in);
    if (!below_modulus(raw.v)) return false;
    out = raw * r_squared;
    return true;
  }
  // Big-endian, taken modulo the field's order.
  static Field reduce(const uint8_t in[32]) {
    // The product of any 256-bit integer with r_squared is below R times the modulus.
    return load(in) * r_squared;
  }
  void to_limbs(uint64_t out[4]) const {
    Field raw = *this * Field{{1, 0, 0, 0}};
    std::memcpy(out, raw.v, 32);
  }
  void to_bytes(uint8_t out[32]) const {
    uint64_t limbs[4];
    to_limbs(limbs);
    for (int i = 0; i < 32; i++) out[i] = static_cast<uint8_t>(limbs[3 - i / 8] >> (56 - 8 * (i % 8)));
  }

  bool is_zero() const { return (v[0] | v[1] | v[2] | v[3]) == 0; }
  friend bool operator==(const Field& a, const Field& b) {
    return ((a.v[0] ^ b.v[0]) | (a.v[1] ^ b.v[1]) | (a.v[2] ^ b.v[2]) | (a.v[3] ^ b.v[3])) == 0;
  }
  friend bool operator!=(const Field& a, const Field& b) { return !(a == b); }

  friend Field operator+(const Field& a, const Field& b) {
    Field sum;
#if defined(__x86_64__)
    x86::add(sum.v, a.v, b.v, modulus());
#else
    u128 carry = 0;
    for (int i = 0; i < 4; i++) {
      carry += static_cast<u128>(a.v[i]) + b.v[i];
      sum.v[i] = static_cast<uint64_t>(carry);
      carry >>= 64;
    }
    sum.subtract_modulus_once();
#endif
    return sum;
  }
  friend Field operator-(const Field& a, const Field& b) {
    Field difference;
#if defined(__x86_64__)
    x86::subtract(difference.v, a.v, b.v, modulus());
#else
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) {
      u128 d = static_cast<u128>(a.v[i]) - b.v[i] - borrow;
      difference.v[i] = static_cast<uint64_t>(d);
      borrow = static_cast<uint64_t>(d >> 64) & 1;
    }
    uint64_t mask = 0 - borrow;
    u128 carry = 0;
    for (int i = 0; i < 4; i++) {
      carry += static_cast<u128>(difference.v[i]) + (modulus()[i] & mask);
      difference.v[i] = static_cast<uint64_t>(carry);
      carry >>= 64;
    }
#endif
    return difference;
  }
  Field operator-() const { return zero() - *this; }
  friend Field operator*(const Field& a, const Field& b) { return multiply(a, b); }
  Field& operator+=(const Field& b) { return *this = *this + b; }
  Field& operator-=(const Field& b) { return *this = *this - b; }
  Field& operator*=(const Field& b) { return *this = *this * b; }
  Field square() const { return *this * *this; }
  Field twice() const { return *this + *this; }

  Field pow(uint64_t exponent) const {
    Field result = one(), base = *this;
    for (; exponent; exponent >>= 1, base = base.square())
      if (exponent & 1) result *= base;
    return result;
  }
  // Zero is its own inverse here.
  Field inverse() const {
    if (is_zero()) return *this;
    Field result;
    invert(result.v, v, r_squared.v, modulus(), negative_inverse());
    return result;
  }

  // 2^exponent mod the modulus, as the limbs hold it.
  static constexpr Field power_of_two(int exponent) {
    Field a{{1, 0, 0, 0}};
    for (int i = 0; i < exponent; i++) {
      uint64_t doubled[4] = {a.v[0] << 1, a.v[1] << 1 | a.v[0] >> 63, a.v[2] << 1 | a.v[1] >> 63,
                             a.v[3] << 1 | a.v[2] >> 63};
      bool big = !below_modulus(doubled);
      uint64_t borrow = 0;
      for (int j = 0; j < 4; j++) {
        u128 d = static_cast<u128>(doubled[j]) - (big ? modulus()[j] : 0) - borrow;
        a.v[j] = static_cast<uint64_t>(d);
        borrow = static_cast<uint64_t>(d >> 64) & 1;
      }
    }
    return a;
  }
  static constexpr bool below_modulus(const uint64_t a[4]) {
    for (int i = 3; i >= 0; i--)
      if (a[i] != modulus()[i]) return a[i] < modulus()[i];
    return false;
  }
  static constexpr uint64_t negative_inverse() {
    uint64_t x = 1;
    for (int i = 0; i < 6; i++) x *= 2 - modulus()[0] * x;
    return 0 - x;
  }

  static const Field r_squared;

 private:
  static Field load(const uint8_t in[32]) {
    Field raw;
    for (int i = 0; i < 4; i++) {
      uint64_t limb = 0;
      for (int j = 0; j < 8; j++) limb = limb << 8 | in[8 * (3 - i) + j];
      raw.v[i] = limb;
    }
    return raw;
  }
  void subtract_modulus_once() {
    uint64_t reduced[4];
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) {
      u128 d = static_cast<u128>(v[i]) - modulus()[i] - borrow;
      reduced[i] = static_cast<uint64_t>(d);
      borrow = static_cast<uint64_t>(d >> 64) & 1;
    }
    uint64_t keep = 0 - borrow;
    for (int i = 0; i < 4; i++) v[i] = (v[i] & keep) | (reduced[i] & ~keep);
  }

  // Coarsely integrated operand scanning. The top limb of the modulus is below 2^62, so the word
  // that carries would go to is always zero: Acar's method without it (gnark, "no-carry").
  static Field multiply(const Field& a, const Field& b) {
    constexpr uint64_t inv = negative_inverse();
    const auto& m = modulus();
#if defined(__x86_64__) && defined(__BMI2__) && defined(__ADX__)
    Field fast;
    x86::multiply(fast.v, a.v, b.v, m, inv);
    return fast;
#else
    uint64_t t[4] = {0, 0, 0, 0};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      u128 x = static_cast<u128>(a.v[0]) * b.v[i] + t[0];
      uint64_t high = static_cast<uint64_t>(x >> 64);
      uint64_t k = static_cast<uint64_t>(x) * inv;
      uint64_t carry = static_cast<uint64_t>((static_cast<u128>(k) * m[0] + static_cast<uint64_t>(x)) >> 64);
#pragma GCC unroll 3
      for (int j = 1; j < 4; j++) {
        x = static_cast<u128>(a.v[j]) * b.v[i] + t[j] + high;
        high = static_cast<uint64_t>(x >> 64);
        x = static_cast<u128>(k) * m[j] + static_cast<uint64_t>(x) + carry;
        carry = static_cast<uint64_t>(x >> 64);
        t[j - 1] = static_cast<uint64_t>(x);
      }
      t[3] = carry + high;
    }
    Field product{{t[0], t[1], t[2], t[3]}};
    product.subtract_modulus_once();
    return product;
#endif
  }
};

template <class Modulus>
inline constexpr Field<Modulus> Field<Modulus>::r_squared = Field<Modulus>::power_of_two(512);

using Fr = Field<ScalarModulus>;
using Fq = Field<BaseModulus>;

// Replace every value by its inverse (zero by zero) for one inversion and three products each
// (Montgomery's trick).
template <class F>
void batch_inverse(F* values, size_t n) {
  std::vector<F> before(n);
  F running = F::one();
  for (size_t i = 0; i < n; i++) {
    before[i] = running;
    if (!values[i].is_zero()) running *= values[i];
  }
  running = running.inverse();
  for (size_t i = n; i-- > 0;) {
    if (values[i].is_zero()) continue;
    F inverse = running * before[i];
    running *= values[i];
    values[i] = inverse;
  }
  wipe(before.data(), n * sizeof(F));
}

}  // namespace zkserve
