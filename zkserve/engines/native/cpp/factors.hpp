// Vectors over committed cells, dense or succinct (sections 1 and 9 of docs/native-protocol.md).
//
// A term is an outer product of factors over a block of cells. A factor is a vector of 2^bits entries, kept
// succinct where it is an eq vector, so that the verifier never expands what it can evaluate.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "description.hpp"
#include "field.hpp"

namespace zkserve {

using Vector = std::vector<Fr>;
using Shared = std::shared_ptr<const Vector>;

enum class Family : unsigned { weights, fresh, helper, input };  // W, w, h, X
constexpr unsigned family_count = 4;

struct Factor {
  enum class Kind { dense, eq, ones };

  Kind kind;
  unsigned bits;
  // dense: entries values[begin ... begin + count), zero from there to 2^bits.
  // eq: eq of the point values[begin ... begin + bits), zero from entry `count` on.
  // ones: 2^bits ones; no values.
  Shared values;
  size_t begin;
  uint64_t count;

  static Factor dense(Shared values, unsigned bits);
  static Factor dense(Vector values, unsigned bits);
  static Factor eq(Shared point, size_t begin, unsigned bits, uint64_t count);
  static Factor eq(Shared point);
  static Factor ones(unsigned bits);
};

// All factors together have at most k bits; `offset` is aligned to them and counts through the family.
struct Term {
  Family family;
  uint64_t offset;
  std::vector<Factor> factors;  // in the order of the stored dimensions, most significant first
  Fr coefficient;
};

// eq(u): 2^|u| entries, variable 1 most significant; and its first `count` entries.
Vector eq_vector(const Fr* u, unsigned bits);
inline Vector eq_vector(const Vector& u) { return eq_vector(u.data(), unsigned(u.size())); }
Vector truncated_eq(const Fr* u, unsigned bits, uint64_t count);
// eq(u, index)
Fr eq_at(const Fr* u, unsigned bits, uint64_t index);
Fr eqv(const Fr* a, const Fr* b, unsigned bits);
Fr sum(const Vector& v);
// 1, base, base^2, ...
Vector powers(const Fr& base, size_t count);
Vector outer_product(const Vector& a, const Vector& b);

// The 2^bits entries of a factor, and their sum.
Vector expand(const Factor& f);
Fr sum_of(const Factor& f);
// The entries of a leading factor that a piece holds; `coefficient` takes what all of them have in common.
Factor cut(const Factor& lead, const Piece& piece, Fr& coefficient);

// L_t(rho) for every tile of every family, indexed [family][tile].
using TileValues = std::vector<Vector>;
TileValues evaluate(const Description& D, const std::vector<Term>& terms, const Vector& rho);

}  // namespace zkserve
