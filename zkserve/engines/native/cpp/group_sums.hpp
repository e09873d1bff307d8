// Sums of points by group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "curve.hpp"
#include "secret.hpp"
#include "threads.hpp"

namespace zkserve {

// out[g] = sum of bases[powers[i]] over all i with groups[i] = g < count; infinity for a group without points.
// One addition a point, in affine batches.
Secret<G1Affine> group_sums(const G1Affine* bases, const std::vector<uint32_t>& powers,
                            const Secret<uint32_t>& groups, size_t count, Threads& threads);

}  // namespace zkserve
