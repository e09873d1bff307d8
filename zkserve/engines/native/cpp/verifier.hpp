// The verifier of section 11 of docs/native-protocol.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "curve.hpp"
#include "description.hpp"
#include "transcript.hpp"

namespace zkserve {

// What zkserve claims of a proof. In hidden mode `input` is the 32-byte digest of C_X.
struct Claim {
  Mode mode;
  Digest weights;
  std::vector<uint8_t> input;
  std::vector<int64_t> outputs;
};

// Whether `proof` shows `claim` for the trusted `D` and SRS, in `context` if one is expected.
// `g2_s` is on its curve and in its subgroup. Never throws: any failure is a rejection.
bool verify(const Description& D, const Digest& srs, const G2Affine& g2_s, const Digest* context, const Claim& claim,
            const uint8_t* proof, size_t size) noexcept;

}  // namespace zkserve
