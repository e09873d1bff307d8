// The rank certificate of section 14 of docs/native-protocol.md: that mask cells and blinds hide everything a
// proof reveals.
#pragma once

#include <cstdint>
#include <vector>

#include "description.hpp"
#include "threads.hpp"

namespace zkserve {

// The certificate digest of D, whatever digest its bytes carry. Throws Refused if for a mode and sample the
// matrix has not full rank, or has not when some two mask cells are deleted.
Digest certify(const Description& D, Threads& threads);

// The gate: throws Refused unless D can be certified and carries that digest and, given the version's own M, all
// modes and samples pass with it too.
void check_certificate(const Description& D, const std::vector<uint32_t>* multipliers, Threads& threads);

}  // namespace zkserve
