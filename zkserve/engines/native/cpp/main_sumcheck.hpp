// The main sumcheck (section 8 of docs/native-protocol.md): products, rows and table batched into one, masked.
#pragma once

#include <memory>
#include <vector>

#include "backend.hpp"

namespace zkserve {

// Coefficients, the constant first.
using Polynomial = Secret<Fr>;

Fr evaluate(const Polynomial& p, const Fr& x);

// One sum over the last `bits` variables.
class Instance {
 public:
  Instance(unsigned bits, const Fr& claim) : bits_(bits), claim_(claim) {}
  virtual ~Instance() = default;

  unsigned bits() const { return bits_; }
  // What is left to show of the instance: its sum over the variables not yet bound.
  const Fr& claim() const { return claim_; }
  // The round polynomial of the next variable. In the last round the factors are masked.
  virtual Polynomial round(bool last) = 0;
  virtual void bind(const Fr& r, bool last) = 0;
  // The masked factors at the end, in the order of E.
  virtual std::vector<Fr> factors() const = 0;

 protected:
  unsigned bits_;
  Fr claim_;
};

class ProductInstance : public Instance {
 public:
  // scale * sum A B, with masks R[0], R[1].
  ProductInstance(unsigned bits, Secret<Fr> a, Secret<Fr> b, const Fr& scale, const Fr* R);
  Polynomial round(bool last) override;
  void bind(const Fr& r, bool last) override;
  std::vector<Fr> factors() const override { return {a_[0], b_[0]}; }

 private:
  Secret<Fr> a_, b_;
  Fr scale_;
  const Fr* R_;
  Polynomial message_;
};

// scale * sum_x eq(tau, x) C(x), with what the bound variables make of eq taken out of the sum: round polynomials are
// prefix eq(tau_i, X) q(X).
class WeightedInstance : public Instance {
 public:
  // `sum` is without the scale.
  WeightedInstance(const Vector& tau, unsigned bits, const Fr& scale, const Fr& sum);
  Polynomial round(bool last) override;
  void bind(const Fr& r, bool last) override;

 protected:
  virtual Polynomial inner_round(bool last) = 0;  // q
  virtual void inner_bind(const Fr& r, bool last) = 0;

  // eq over the variables behind this round's.
  const Fr* weights() const { return weights_[round_].data(); }
  // q(1), which follows from q(0).
  Fr at_one(const Fr& at_zero) const;

 private:
  Vector tau_;
  std::vector<Vector> weights_;
  size_t round_ = 0;
  Fr prefix_, sum_;
  Polynomial q_;
};

class RowInstance : public WeightedInstance {
 public:
  // `R`: masks of all columns and helpers. Columns are not folded, so `factors` gives the helpers only.
  RowInstance(const Description& D, const Rows& rows, const Vector& tau, const Fr& sum, const Fr* R,
              Backend& backend);
  std::vector<Fr> factors() const override { return helpers_; }

 private:
  Polynomial inner_round(bool last) override;
  void inner_bind(const Fr& r, bool last) override;

  const Description& D_;
  const Rows& rows_;
  std::unique_ptr<RowSumcheck> sumcheck_;
  Secret<Fr> masks_;
  std::vector<Fr> helpers_;
};

class TableInstance : public WeightedInstance {
 public:
  // scale * sum eq(tau, x) (h terms - m); `terms` are alpha - T.
  TableInstance(const Vector& tau, Secret<Fr> terms, Secret<Fr> h, Secret<Fr> m, const Fr& scale, const Fr& sum,
                const Fr* R);
  std::vector<Fr> factors() const override { return {h_[0], m_[0]}; }

 private:
  Polynomial inner_round(bool last) override;
  void inner_bind(const Fr& r, bool last) override;

  Secret<Fr> terms_, h_, m_;
  const Fr* R_;
};

// All instances and the Libra polynomial.
class MainSumcheck {
 public:
  // `libra`: a_0, then the D_i coefficients of each variable.
  MainSumcheck(const Description& D, std::vector<std::unique_ptr<Instance>> instances, const Fr* libra);

  // V
  Fr value() const;
  // Coefficients c_0 ... c_D of the round polynomial.
  Polynomial round();
  void bind(const Fr& r);
  // g(r), and the factors of all instances in order, after n rounds.
  const Fr& libra_value() const { return bound_; }
  std::vector<Fr> factors() const;

 private:
  const Description& D_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::vector<Fr> shares_;  // each instance's sum, halved in each round before it begins
  const Fr* libra_;
  Fr bound_;                // the Libra polynomial's value in the variables bound so far
  unsigned round_ = 0;
};

}  // namespace zkserve
