// Challenges, and the vectors that equations make of theirs (sections 7 and 9 of docs/native-protocol.md).
#pragma once

#include <cstdint>
#include <vector>

#include "description.hpp"
#include "factors.hpp"
#include "transcript.hpp"

namespace zkserve {

// Weights of an equation from its r_l. Exact sizes, not padded to powers of two.
struct EquationVectors {
  Vector e_g;      // groups
  Vector e_c;      // group outputs (the document's e_c')
  Vector e_b;      // batch
  Vector e_Y, e_X; // Hs, Ws
  Vector hat_g, hat_c;                // e_g, e_c, one of them times M_c if per channel
  Vector u_Y, u_X;                    // sums over a pool's window; target height and width if pooled
  Vector bar_Y, bar_X;                // spread over accumulators: oh, ow
  Vector channel, hat_channel;        // cn: e_g (x) e_c and hat_g (x) hat_c
  Fr multiplier;                      // M'
};
// `point` holds the coordinates of r_l.
EquationVectors equation_vectors(const Description& D, const Equation& e, const Vector& point,
                                 const std::vector<uint32_t>& multipliers);

// (pull v): transpose of the window sums along one axis, last view first.
Vector pull_rows(const Vector& v, const std::vector<View>& views, const std::vector<Extent>& extents);
Vector pull_columns(const Vector& v, const std::vector<View>& views, const std::vector<Extent>& extents);

// Multiplier of scaled term `index` of an equation: its constant or an entry of M.
uint32_t scaled_multiplier(const Equation& e, size_t index, const std::vector<uint32_t>& multipliers);

// Challenges in the order of section 7.
struct Challenges {
  Fr alpha, lambda;             // after C_w
  Fr eta;                       // after C_h
  Vector tau;
  std::vector<EquationVectors> equations;
  Vector output_point;          // r_out
  Vector r;                     // main rounds
  Fr chi_x;                     // after E
  Vector chi;
  Fr beta;                      // after s_M
};
// Draws alpha, lambda.
void draw_lookup_challenges(Transcript& t, Challenges& c);
// Draws eta, tau, r_l of every equation, r_out.
void draw_constraint_challenges(const Description& D, const std::vector<uint32_t>& multipliers, Transcript& t,
                                Challenges& c);
// Draws chi_x, chi.
void draw_mask_challenges(const Description& D, Transcript& t, Challenges& c);

}  // namespace zkserve
