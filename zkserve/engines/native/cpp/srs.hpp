// Structured reference strings: powers of a secret in G1, and the secret in G2.
//
// File: "ZKSRS001", u32 number of points (big-endian), u8 development, 3 zero bytes, [s]_2 as the
// EVM takes it (128 bytes), then the points (64 bytes, x then y, big-endian): G, [s]_1, [s^2]_1, ...
#pragma once

#include <array>
#include <string>
#include <vector>

#include "curve.hpp"
#include "threads.hpp"

namespace zkserve {

struct Srs {
  std::vector<G1Affine> g1;
  G2Affine g2_s;
  std::array<uint8_t, 32> digest;
  bool development;

  // The first `points` powers of a file (all for 0). Every point is canonical, on its curve, not infinity, and the
  // first is G; that they are consecutive powers only `check` shows. Throws std::invalid_argument.
  static Srs load(const std::string& path, size_t points);

  // Throws std::invalid_argument unless the points are consecutive powers of the secret in g2_s:
  // for random r_i, e(sum r_i S[i+1], [1]_2) = e(sum r_i S[i], [s]_2).
  void check(Threads& threads) const;

  void save(const std::string& path) const;

  // Powers of a secret drawn here and wiped: for development, whoever made it may have kept it.
  static Srs generate(size_t points, Threads& threads);

  // From a ceremony's file as snarkjs writes it (.ptau); checked as by `check`.
  static Srs import_ptau(const std::string& path, size_t points, Threads& threads);
};

// H(H("zkserve/native/srs/v1") || [s]_1 || [s]_2).
std::array<uint8_t, 32> srs_digest(const G1Affine& s1, const G2Affine& s2);

}  // namespace zkserve
