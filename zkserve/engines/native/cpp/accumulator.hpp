// Sums of field elements times small integers, reduced once at the end.
#pragma once

#include <cstddef>
#include <cstdint>

#include "field.hpp"

namespace zkserve {

// An unsigned integer of 320 bits: products of a field element's limbs with integers, added up.
// Holds sums below 2^312; a product of `bits` bits may be added 2^(58 - bits) times.
class Accumulator {
 public:
  void add(const Fr& a, uint64_t factor) {
    u128 carry = 0;
    for (int i = 0; i < 4; i++) {
      carry += static_cast<u128>(a.v[i]) * factor + v_[i];
      v_[i] = static_cast<uint64_t>(carry);
      carry >>= 64;
    }
    v_[4] += static_cast<uint64_t>(carry);
  }
  void add(const Fr& a) {
    u128 carry = 0;
    for (int i = 0; i < 4; i++) {
      carry += static_cast<u128>(a.v[i]) + v_[i];
      v_[i] = static_cast<uint64_t>(carry);
      carry >>= 64;
    }
    v_[4] += static_cast<uint64_t>(carry);
  }

  // The sum modulo p. The limbs hold a Montgomery form throughout, so the result does too.
  Fr reduce() const {
    // quotient = floor(sum / p) up to two too small, from the leading 64 bits and 2^312 / p.
    const uint64_t top = v_[3] >> 56 | v_[4] << 8;
    const uint64_t quotient = static_cast<uint64_t>(static_cast<u128>(top) * reciprocal >> 64);
    Fr rest;
    uint64_t product_carry = 0, borrow = 0;
    for (int i = 0; i < 4; i++) {
      const u128 product = static_cast<u128>(quotient) * Fr::modulus()[i] + product_carry;
      product_carry = static_cast<uint64_t>(product >> 64);
      const u128 difference = static_cast<u128>(v_[i]) - static_cast<uint64_t>(product) - borrow;
      rest.v[i] = static_cast<uint64_t>(difference);
      borrow = static_cast<uint64_t>(difference >> 64) & 1;
    }
    // What is left is below 3p < 2^256, so its fifth limb is zero.
    subtract_modulus(rest);
    subtract_modulus(rest);
    return rest;
  }

 private:
  // floor(2^312 / p)
  static constexpr uint64_t reciprocal = 0x54a47462623a04a;
  static void subtract_modulus(Fr& a) {
    Fr smaller;
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) {
      const u128 difference = static_cast<u128>(a.v[i]) - Fr::modulus()[i] - borrow;
      smaller.v[i] = static_cast<uint64_t>(difference);
      borrow = static_cast<uint64_t>(difference >> 64) & 1;
    }
    const uint64_t keep = 0 - borrow;
    for (int i = 0; i < 4; i++) a.v[i] = (a.v[i] & keep) | (smaller.v[i] & ~keep);
  }

  uint64_t v_[5] = {0, 0, 0, 0, 0};
};

// A sum of field elements times signed integers of up to `Bits` bits: each is shifted to be
// non-negative, and the shift times the sum of the elements is taken off again.
template <unsigned Bits>
class SignedAccumulator {
 public:
  void add(const Fr& a, int64_t factor) {
    products_.add(a, static_cast<uint64_t>(factor + shift));
    elements_.add(a);
  }
  Fr reduce() const { return products_.reduce() - Fr::from_u64(shift) * elements_.reduce(); }

 private:
  static constexpr int64_t shift = int64_t{1} << (Bits - 1);
  Accumulator products_, elements_;
};

}  // namespace zkserve
