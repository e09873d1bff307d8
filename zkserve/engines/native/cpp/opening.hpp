// The opening of one polynomial at a multilinear point (section 10 of docs/native-protocol.md).
#pragma once

#include "backend.hpp"
#include "proof_writer.hpp"

namespace zkserve {

// Sends steps 8 to 11 for `f` (2^k cells, then blinds), at `rho`. Throws Again or Cancelled.
void open_polynomial(Backend& backend, Threads& threads, const Secret<Fr>& f, const Vector& rho,
                     ProofWriter& out, const Control& control);

}  // namespace zkserve
