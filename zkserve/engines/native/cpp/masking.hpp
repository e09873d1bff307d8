// The map from a proof's mask cells and blinds to what it reveals, and its rank (section 14 of
// docs/native-protocol.md).
#pragma once

#include <cstdint>
#include <vector>

#include "description.hpp"
#include "functionals.hpp"
#include "transcript.hpp"

namespace zkserve {

// The values that stand for challenges.
class Sampler {
 public:
  explicit Sampler(Hasher prefix) : prefix_(std::move(prefix)) {}

  Fr next() { return Fr::reduce(Hasher(prefix_).u32(counter_++).finish().data()); }
  Vector next(size_t count) {
    Vector out;
    for (size_t i = 0; i < count; ++i) out.push_back(next());
    return out;
  }

 private:
  Hasher prefix_;
  uint32_t counter_ = 0;
};

// The challenges that the map depends on beside the terms, and the secret of the SRS.
struct MaskPoint {
  Fr chi_x;
  Vector chi, rho;
  Fr theta, gamma, zeta, s;

  // chi_x and chi come earlier in the order of challenges.
  static MaskPoint draw(unsigned k, const Fr& chi_x, const Vector& chi, Sampler& from) {
    MaskPoint x;
    x.chi_x = chi_x;
    x.chi = chi;
    x.rho = from.next(k);
    x.theta = from.next();
    x.gamma = from.next();
    x.zeta = from.next();
    from.next(2);  // nu and omega: W1 and W2 follow from the rest
    x.s = from.next();
    return x;
  }
};

struct Rank {
  size_t rank, columns, coordinates;
};

// The map's rank for the tiles and masks of `D` (k, nw, nh, h_masks, w_masks) under these terms. Throws Refused if
// it is not full, or not without any one mask cell of h and any one of w.
Rank masking_rank(const Description& D, const std::vector<Term>& terms, const MaskPoint& x, Sampler& from);

}  // namespace zkserve
