#include "main_sumcheck.hpp"

namespace zkserve {
namespace {

Polynomial multiply(const Polynomial& a, const Polynomial& b) {
  Polynomial out(a.size() + b.size() - 1, Fr::zero());
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < b.size(); ++j) out[i + j] += a[i] * b[j];
  return out;
}

void scale(Polynomial& p, const Fr& factor) {
  for (Fr& c : p) c *= factor;
}

// low + (high - low) X + mask X (1 - X)
Polynomial masked(const Fr& low, const Fr& high, const Fr& mask) { return {low, high - low + mask, -mask}; }

// The polynomial with values[i] at X = i (Newton).
Polynomial interpolate(Secret<Fr> values) {
  const size_t n = values.size();
  for (size_t order = 1; order < n; ++order) {
    const Fr inverse = Fr::from_u64(order).inverse();
    for (size_t i = n - 1; i >= order; --i) values[i] = (values[i] - values[i - 1]) * inverse;
  }
  Polynomial out = {values[n - 1]};
  for (size_t i = n - 1; i-- > 0;) {
    out = multiply(out, {-Fr::from_u64(i), Fr::one()});
    out[0] += values[i];
  }
  return out;
}

void fold(Secret<Fr>& table, const Fr& r) {
  const size_t half = table.size() / 2;
  for (size_t x = 0; x < half; ++x) table[x] += r * (table[x + half] - table[x]);
  table.resize(half);
}

Fr inner(const Secret<Fr>& a, const Secret<Fr>& b) {
  Fr sum = Fr::zero();
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

Fr evaluate(const Polynomial& p, const Fr& x) {
  Fr value = Fr::zero();
  for (size_t i = p.size(); i-- > 0;) value = value * x + p[i];
  return value;
}

ProductInstance::ProductInstance(unsigned bits, Secret<Fr> a, Secret<Fr> b, const Fr& scale, const Fr* R)
    : Instance(bits, scale * inner(a, b)), a_(std::move(a)), b_(std::move(b)), scale_(scale), R_(R) {}

Polynomial ProductInstance::round(bool last) {
  if (last) {
    message_ = multiply(masked(a_[0], a_[1], R_[0]), masked(b_[0], b_[1], R_[1]));
    scale(message_, scale_);
    return message_;
  }
  const size_t half = a_.size() / 2;
  Fr c0 = Fr::zero(), c2 = Fr::zero();
  for (size_t x = 0; x < half; ++x) {
    c0 += a_[x] * b_[x];
    c2 += (a_[x + half] - a_[x]) * (b_[x + half] - b_[x]);
  }
  c0 *= scale_;
  c2 *= scale_;
  message_ = {c0, claim_ - c0.twice() - c2, c2};
  return message_;
}

void ProductInstance::bind(const Fr& r, bool last) {
  claim_ = evaluate(message_, r);
  if (last) {
    a_ = {evaluate(masked(a_[0], a_[1], R_[0]), r)};
    b_ = {evaluate(masked(b_[0], b_[1], R_[1]), r)};
  } else {
    fold(a_, r);
    fold(b_, r);
  }
}

WeightedInstance::WeightedInstance(const Vector& tau, unsigned bits, const Fr& scale, const Fr& sum)
    : Instance(bits, scale * sum), tau_(tau.begin(), tau.begin() + bits), weights_(bits), prefix_(scale), sum_(sum) {
  weights_[bits - 1] = {Fr::one()};
  for (unsigned i = bits - 1; i-- > 0;) {
    const Vector& behind = weights_[i + 1];
    weights_[i].resize(2 * behind.size());
    for (size_t x = 0; x < behind.size(); ++x) {
      const Fr high = tau_[i + 1] * behind[x];
      weights_[i][x] = behind[x] - high;
      weights_[i][x + behind.size()] = high;
    }
  }
}

Fr WeightedInstance::at_one(const Fr& at_zero) const {
  // (1 - tau) q(0) + tau q(1) is the sum. Were tau zero, the prover's own verification would show it.
  const Fr& tau = tau_[round_];
  return (sum_ - (Fr::one() - tau) * at_zero) * tau.inverse();
}

Polynomial WeightedInstance::round(bool last) {
  q_ = inner_round(last);
  const Fr& tau = tau_[round_];
  Polynomial p = multiply(q_, {Fr::one() - tau, tau.twice() - Fr::one()});
  scale(p, prefix_);
  return p;
}

void WeightedInstance::bind(const Fr& r, bool last) {
  inner_bind(r, last);
  prefix_ *= eqv(&tau_[round_], &r, 1);
  sum_ = evaluate(q_, r);
  claim_ = prefix_ * sum_;
  ++round_;
}

RowInstance::RowInstance(const Description& D, const Rows& rows, const Vector& tau, const Fr& sum, const Fr* R,
                         Backend& backend)
    : WeightedInstance(tau, D.nr, Fr::one(), sum), D_(D), rows_(rows), sumcheck_(backend.row_sumcheck(rows)),
      masks_(rows.masks(R)) {}

Polynomial RowInstance::inner_round(bool last) {
  if (last) {
    const auto [low, high] = sumcheck_->last_rows();
    Secret<Fr> values, at(rows_.width());
    for (uint64_t X = 0; X <= 8; ++X) {
      const Fr x = Fr::from_u64(X);
      for (size_t i = 0; i < at.size(); ++i) at[i] = evaluate(masked(low[i], high[i], masks_[i]), x);
      values.push_back(rows_.value(at.data()));
    }
    return interpolate(std::move(values));
  }
  const auto [at_0, at_minus, at_2, c4] = sumcheck_->round(weights());
  static const Fr third = Fr::from_u64(3).inverse(), half = Fr::inv2();
  const Fr plus = at_one(at_0) - at_0 - c4, minus = at_minus - at_0 - c4;
  const Fr c2 = (plus + minus) * half, odd = (plus - minus) * half;
  const Fr c3 = ((at_2 - at_0 - c2.twice().twice() - Fr::from_u64(16) * c4) * half - odd) * third;
  return {at_0, odd - c3, c2, c3, c4};
}

void RowInstance::inner_bind(const Fr& r, bool last) {
  if (!last) return sumcheck_->fold(r);
  const auto [low, high] = sumcheck_->last_rows();
  for (size_t i = D_.lookups; i < D_.lookups + D_.groups3; ++i)
    helpers_.push_back(evaluate(masked(low[i], high[i], masks_[i]), r));
}

TableInstance::TableInstance(const Vector& tau, Secret<Fr> terms, Secret<Fr> h, Secret<Fr> m, const Fr& scale,
                             const Fr& sum, const Fr* R)
    : WeightedInstance(tau, clog(terms.size()), scale, sum), terms_(std::move(terms)), h_(std::move(h)),
      m_(std::move(m)), R_(R) {}

Polynomial TableInstance::inner_round(bool last) {
  if (last) {
    Polynomial q = multiply(masked(h_[0], h_[1], R_[0]), {terms_[0], terms_[1] - terms_[0]});
    const Polynomial m = masked(m_[0], m_[1], R_[1]);
    for (size_t i = 0; i < m.size(); ++i) q[i] -= m[i];
    return q;
  }
  const size_t half = terms_.size() / 2;
  Fr c0 = Fr::zero(), c2 = Fr::zero();
  for (size_t x = 0; x < half; ++x) {
    c0 += weights()[x] * (h_[x] * terms_[x] - m_[x]);
    c2 += weights()[x] * ((h_[x + half] - h_[x]) * (terms_[x + half] - terms_[x]));
  }
  return {c0, at_one(c0) - c0 - c2, c2};
}

void TableInstance::inner_bind(const Fr& r, bool last) {
  if (last) {
    h_ = {evaluate(masked(h_[0], h_[1], R_[0]), r)};
    m_ = {evaluate(masked(m_[0], m_[1], R_[1]), r)};
  } else {
    fold(terms_, r);
    fold(h_, r);
    fold(m_, r);
  }
}

MainSumcheck::MainSumcheck(const Description& D, std::vector<std::unique_ptr<Instance>> instances, const Fr* libra)
    : D_(D), instances_(std::move(instances)), libra_(libra), bound_(libra[0]) {
  for (const auto& instance : instances_) shares_.push_back(instance->claim());
}

Fr MainSumcheck::value() const {
  Fr sum = Fr::zero(), coefficients = Fr::zero();
  for (const auto& instance : instances_) sum += instance->claim();
  for (unsigned i = 1; i <= D_.degree_sum; ++i) coefficients += libra_[i];
  return sum + Fr::from_u64(uint64_t(1) << D_.n) * libra_[0] + Fr::from_u64(uint64_t(1) << (D_.n - 1)) * coefficients;
}

Polynomial MainSumcheck::round() {
  const unsigned behind = D_.n - 1 - round_, degree = D_.degrees[round_];
  const bool last = behind == 0;
  Polynomial sum(degree + 1, Fr::zero());
  for (size_t i = 0; i < instances_.size(); ++i) {
    Instance& instance = *instances_[i];
    if (round_ + instance.bits() < D_.n) {
      shares_[i] *= Fr::inv2();
      sum[0] += shares_[i];
      continue;
    }
    Polynomial p = instance.round(last);
    const Fr share = Fr::inv2().pow(D_.n - instance.bits());
    for (size_t c = 0; c < p.size(); ++c) sum[c] += share * p[c];
  }
  const Fr points = Fr::from_u64(uint64_t(1) << behind);
  sum[0] += points * bound_;
  const Fr* own = libra_ + 1 + 5 * round_;
  for (unsigned c = 0; c < degree; ++c) sum[c + 1] += points * own[c];
  if (!last) {
    Fr later = Fr::zero();
    for (unsigned i = 1 + 5 * (round_ + 1); i <= D_.degree_sum; ++i) later += libra_[i];
    sum[0] += Fr::from_u64(uint64_t(1) << (behind - 1)) * later;
  }
  return sum;
}

void MainSumcheck::bind(const Fr& r) {
  const bool last = round_ + 1 == D_.n;
  for (const auto& instance : instances_)
    if (round_ + instance->bits() >= D_.n) instance->bind(r, last);
  Fr power = r;
  for (unsigned c = 0; c < D_.degrees[round_]; ++c, power *= r) bound_ += libra_[1 + 5 * round_ + c] * power;
  ++round_;
}

std::vector<Fr> MainSumcheck::factors() const {
  std::vector<Fr> out;
  for (const auto& instance : instances_)
    for (const Fr& f : instance->factors()) out.push_back(f);
  return out;
}

}  // namespace zkserve
