// Linear functionals and claims over committed cells (section 9 of docs/native-protocol.md).
//
// A functional is a list of terms; its value is the inner product of the cells with the outer product of a
// term's factors. A factor is a vector of 2^bits entries, kept succinct where it is an eq vector, so that the
// verifier never expands what it can evaluate.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "description.hpp"
#include "field.hpp"
#include "transcript.hpp"

namespace zkserve {

using Vector = std::vector<Fr>;
using Shared = std::shared_ptr<const Vector>;

enum class Family : unsigned { weights, fresh, helper, input };  // W, w, h, X
constexpr unsigned family_count = 4;

struct Factor {
  enum class Kind { dense, eq, ones };

  Kind kind;
  unsigned bits;
  // dense: entries values[begin ... begin + count), zero from there to 2^bits.
  // eq: eq of the point values[begin ... begin + bits), zero from entry `count` on.
  // ones: 2^bits ones; no values.
  Shared values;
  size_t begin;
  uint64_t count;

  static Factor dense(Shared values, unsigned bits);
  static Factor dense(Vector values, unsigned bits);
  static Factor eq(Shared point, size_t begin, unsigned bits, uint64_t count);
  static Factor eq(Shared point);
  static Factor ones(unsigned bits);
};

// All factors together have at most k bits; `offset` is aligned to them and counts through the family.
struct Term {
  Family family;
  uint64_t offset;
  std::vector<Factor> factors;  // in the order of the stored dimensions, most significant first
  Fr coefficient;
};

struct Claims {
  std::vector<Term> terms;
  Fr value;  // v: what the inner product of all terms with all cells has to be
};

// eq(u): 2^|u| entries, variable 1 most significant.
Vector eq_vector(const Fr* u, unsigned bits);
inline Vector eq_vector(const Vector& u) { return eq_vector(u.data(), unsigned(u.size())); }
Fr eqv(const Fr* a, const Fr* b, unsigned bits);
Fr sum(const Vector& v);

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

// The claims of section 9, combined with powers of beta. E are the nE sent values, g is g(r).
Claims claims(const Description& D, const Statement& s, const Challenges& c, const Fr& V, const Vector& E,
              const Fr& g, const Fr& s_M);

// chi', the point of the mask claim for the w family.
Vector rotated(const Vector& chi);

// L_t(rho) for every tile of every family, indexed [family][tile].
using TileValues = std::vector<Vector>;
TileValues evaluate(const Description& D, const std::vector<Term>& terms, const Vector& rho);

// The 2^bits entries of a factor.
Vector expand(const Factor& f);

// Public table and constraints at a point, as the verifier's step 6 needs them.
Fr kinds_at(const Description& D, const Vector& row_point);                      // K(r)
Fr table_at(const Description& D, const Vector& table_point, const Fr& lambda);  // T(r)
// rows(E): `values` are the columns, then the helpers; `kind` is K at the point.
Fr rows_at(const Description& D, const Fr* values, const Fr& kind, const Challenges& c);

}  // namespace zkserve
