// What the verifiers of inference proofs and of range proofs share: reading, sumcheck rounds, the opening
// (sections 8, 10 and 11 of docs/native-protocol.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "curve.hpp"
#include "description.hpp"
#include "functionals.hpp"
#include "transcript.hpp"

namespace zkserve {

using Points = std::vector<G1Affine>;

// Throws Refused, with one message for every reason.
void need_proof(bool condition);

// Reads canonical values; throws Refused where they are not.
class ProofReader {
 public:
  ProofReader(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  const uint8_t* take(size_t size);
  Points points(size_t count);
  Vector scalars(size_t count);
  // Values in [1, 2^16).
  std::vector<uint32_t> multipliers(size_t count);
  void finish() const { need_proof(at_ == end_); }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

// s(r) for the round polynomial with all coefficients but the linear one sent: s(0) + s(1) = claim.
Fr next_claim(const Fr& claim, const Vector& sent, const Fr& r);

struct Opening {
  Points points;     // [h], [q*], [g], [S]
  Vector values;     // g(zeta), g(1/zeta), h(zeta), h(1/zeta), S(zeta), 1/zeta
  Points quotients;  // [W1], [W2]

  static Opening read(ProofReader& r) {
    Opening out;
    out.points = r.points(4);
    out.values = r.scalars(6);
    out.quotients = r.points(2);
    return out;
  }
};

// Section 10: sum_t L_t(rho) P_t has the value e at rho, for tiles of 2^k cells; `tiles` are the commitments
// of the families W, w, h and X, in the order of L.
bool check_opening(unsigned k, const G2Affine& g2_s, const Opening& opening, const Points* const tiles[family_count],
                   const TileValues& L, const Vector& rho, const Fr& e, Transcript& t);

}  // namespace zkserve
