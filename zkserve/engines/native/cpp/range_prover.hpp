// Range proofs of a registration (section 16 of docs/native-protocol.md).
#pragma once

#include <cstdint>
#include <vector>

#include "prover.hpp"
#include "range.hpp"

namespace zkserve {

// The proof that a version's weights are integers of `weight_bytes` bytes and can overflow nothing; its own
// verification has accepted it. Throws Refused if they are not or can, Cancelled, or std::runtime_error.
std::vector<uint8_t> prove_range(const Version& version, unsigned weight_bytes, const Srs& srs,
                                 const Secret<uint8_t>& owner_key, Threads& threads, const Control& control);

}  // namespace zkserve
