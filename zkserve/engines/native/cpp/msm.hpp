// Sums of scalar multiples in G1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "curve.hpp"
#include "threads.hpp"

namespace zkserve {

// sum_i scalars[i] * bases[i].
G1 msm(const G1Affine* bases, const Fr* scalars, size_t n, Threads& threads);

// The same for small signed scalars, |scalars[i]| < 2^31; costs grow with the widest one's bits.
G1 msm_small(const G1Affine* bases, const int32_t* scalars, size_t n, Threads& threads);

}  // namespace zkserve
