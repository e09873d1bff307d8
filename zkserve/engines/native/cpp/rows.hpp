// Row constraints (section 8 of docs/native-protocol.md) as a polynomial in the factors that the sumcheck folds.
//
// Factors of a row, each linear in its cells: the terms of its NF lookups; its G3 helpers; [Z or Y] - top SAT, SEL
// and LO; the PW pooling differences.
#pragma once

#include <cstdint>

#include "description.hpp"
#include "field.hpp"
#include "functionals.hpp"
#include "secret.hpp"
#include "witness.hpp"

namespace zkserve {

// What the sumcheck over rows needs of them.
class Rows {
 public:
  virtual ~Rows() = default;
  virtual size_t width() const = 0;
  // Rows from here on are blank.
  virtual size_t active() const = 0;

  // Factors of a row; of a blank one from `active()` on.
  virtual void factors(size_t row, Fr* out) const = 0;
  // Helpers of a row.
  virtual void helpers(size_t row, Fr* out) const = 0;
  // What the masks of all columns and helpers (in the order of E) make of each factor.
  virtual Secret<Fr> masks(const Fr* R) const = 0;

  // The constraint in the factors.
  virtual Fr value(const Fr* factors) const = 0;
  // Its coefficient of X^4 where the factors are linear polynomials with these slopes.
  virtual Fr leading(const Fr* slopes) const = 0;
};

class NetworkRows : public Rows {
 public:
  // `terms` are alpha - T, `inverses` their inverses, by table entry. All outlive this.
  NetworkRows(const Description& D, const Witness& witness, const Fr* terms, const Fr* inverses, const Challenges& c);

  size_t width() const override { return width_; }
  size_t active() const override { return active_; }

  // Factors of a row; of a blank one from `active()` on.
  void factors(size_t row, Fr* out) const override;
  // Helpers of a row.
  void helpers(size_t row, Fr* out) const override;
  // What the masks of all columns and helpers (in the order of E) make of each factor.
  Secret<Fr> masks(const Fr* R) const override;

  // rows(X) of section 8 in the factors.
  Fr value(const Fr* factors) const override;
  // Its coefficient of X^4 where the factors are linear polynomials with these slopes.
  Fr leading(const Fr* slopes) const override;

 private:
  const Description& D_;
  const Witness& witness_;
  const Fr* terms_;
  const Fr* inverses_;
  Fr lambda_;
  Vector eta_powers_;  // eta^L, eta^(L+1), ...
  size_t width_, active_, helper_, clamp_, pool_;
};

}  // namespace zkserve
