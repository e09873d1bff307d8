// The optimal ate pairing of BN254.
#pragma once

#include <utility>
#include <vector>

#include "curve.hpp"

namespace zkserve {

// Whether the product of the pairings of all pairs is one. Points must be on their curves and, in
// G2, in the subgroup; a pair with a point at infinity counts as one.
bool pairing_is_one(const std::vector<std::pair<G1Affine, G2Affine>>& pairs);

}  // namespace zkserve
