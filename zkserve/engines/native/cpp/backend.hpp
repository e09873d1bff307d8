// The kernels of the prover that touch much data: what a GPU may replace without touching the protocol.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "curve.hpp"
#include "description.hpp"
#include "functionals.hpp"
#include "rows.hpp"
#include "secret.hpp"
#include "srs.hpp"
#include "threads.hpp"
#include "witness.hpp"

namespace zkserve {

// The sum over rows of the main sumcheck. With q(X) = sum_x eq(tau_{i+1} ..., x) C(r_1 ..., X, x), of degree 4:
class RowSumcheck {
 public:
  virtual ~RowSumcheck() = default;
  // q(0), q(-1), q(2) and the coefficient of X^4; `weights` is the eq vector over what remains.
  virtual std::array<Fr, 4> round(const Fr* weights) = 0;
  virtual void fold(const Fr& r) = 0;
  // The factors of the two rows that remain before the last round.
  virtual std::pair<Secret<Fr>, Secret<Fr>> last_rows() = 0;
};

// A tile as the final sumcheck and the opening read it: small integers or field elements, N of them, and a few
// cells that are added to it.
struct Tile {
  Family family;
  size_t index;
  const int32_t* small;
  const Fr* full;
  std::vector<std::pair<size_t, Fr>> extra;
};

// sum_t <L_t, P_t> over all tiles.
class LinearSumcheck {
 public:
  virtual ~LinearSumcheck() = default;
  // c0, c2; each round is followed by its fold.
  virtual std::array<Fr, 2> round() = 0;
  virtual void fold(const Fr& r) = 0;
  // L_t(rho), after k folds.
  virtual Vector values() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Commitments by the SRS from power `first` on.
  virtual G1 commit(size_t first, const Fr* scalars, size_t n) = 0;
  virtual G1 commit_small(size_t first, const int32_t* scalars, size_t n) = 0;
  virtual G1 commit_small(const std::vector<uint32_t>& powers, const int32_t* scalars) = 0;
  virtual const G1Affine& power(size_t i) const = 0;
  // The sums of the powers in each group, groups[i] < count being that of powers[i].
  virtual Secret<G1Affine> group_sums(const std::vector<uint32_t>& powers, const Secret<uint32_t>& groups,
                                      size_t count) = 0;
  virtual G1 sum(const Secret<G1Affine>& points, const Secret<Fr>& scalars) = 0;

  // The tables A and B of a product term, 2^kappa entries each.
  virtual Secret<Fr> left_table(const Equation& e, const Product& p, const EquationVectors& v,
                                const int32_t* weights) = 0;
  virtual Secret<Fr> right_table(const Equation& e, const Product& p, const EquationVectors& v,
                                 const Values& source) = 0;

  // `rows` outlives the result.
  virtual std::unique_ptr<RowSumcheck> row_sumcheck(const Rows& rows) = 0;
  // `tiles` outlives the result; the terms are those of all claims.
  virtual std::unique_ptr<LinearSumcheck> linear_sumcheck(const std::vector<Tile>& tiles,
                                                          const std::vector<Term>& terms) = 0;
  // sum_t factors[t] P_t, N cells.
  virtual Secret<Fr> combine(const std::vector<Tile>& tiles, const Vector& factors) = 0;
};

// All outlive the result.
std::unique_ptr<Backend> cpu_backend(const Description& D, const Srs& srs, Threads& threads);

}  // namespace zkserve
