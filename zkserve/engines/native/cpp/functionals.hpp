// The linear claims over committed cells (section 9 of docs/native-protocol.md).
#pragma once

#include <vector>

#include "challenges.hpp"
#include "description.hpp"
#include "factors.hpp"
#include "transcript.hpp"

namespace zkserve {

struct Claims {
  std::vector<Term> terms;
  Fr value;  // v: what the inner product of all terms with all cells has to be
};

// The claims of section 9, combined with powers of beta. E are the nE sent values, g is g(r).
Claims claims(const Description& D, const Statement& s, const Challenges& c, const Fr& V, const Vector& E,
              const Fr& g, const Fr& s_M);

// chi', the point of the mask claim for the w family.
Vector rotated(const Vector& chi);

}  // namespace zkserve
