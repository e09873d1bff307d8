#include "rows.hpp"

namespace zkserve {

NetworkRows::NetworkRows(const Description& D, const Witness& witness, const Fr* terms, const Fr* inverses,
                         const Challenges& c)
    : D_(D), witness_(witness), terms_(terms), inverses_(inverses), lambda_(c.lambda) {
  Fr power = c.eta.pow(D.equations.size());
  for (unsigned i = 0; i < 2 + D.groups3; ++i, power *= c.eta) eta_powers_.push_back(power);
  helper_ = D.lookups;
  clamp_ = helper_ + D.groups3;
  pool_ = clamp_ + 3;
  width_ = pool_ + D.PW;
  active_ = active_rows(D);
}

void NetworkRows::helpers(size_t row, Fr* out) const {
  const uint32_t* entries = &witness_.lookups[std::min(row, active_) * D_.lookups];
  for (unsigned i = 0; i < D_.lookups; ++i) {
    if (i % 3 == 0)
      out[i / 3] = inverses_[entries[i]];
    else
      out[i / 3] += inverses_[entries[i]];
  }
}

void NetworkRows::factors(size_t row, Fr* out) const {
  const uint32_t* entries = &witness_.lookups[std::min(row, active_) * D_.lookups];
  for (unsigned i = 0; i < D_.lookups; ++i) out[i] = terms_[entries[i]];
  helpers(row, out + helper_);
  const bool blank = row >= active_;
  auto cell = [&](unsigned column) {
    return blank ? int64_t(0) : int64_t(witness_.cells[(size_t(column) << D_.nr) + row]);
  };
  int64_t low = 0;
  for (unsigned i = 0; i < D_.A; ++i) low += cell(D_.lo(i)) << 8 * i;
  out[clamp_] = Fr::from_i64(cell(D_.z()) - int64_t(D_.top) * cell(D_.sat()));
  out[clamp_ + 1] = Fr::from_i64(cell(D_.sel()));
  out[clamp_ + 2] = Fr::from_i64(low);
  for (unsigned w = 0; w < D_.PW; ++w) {
    int64_t difference = 0;
    for (unsigned l = 0; l < D_.NL; ++l) difference += cell(D_.d(w, l)) << 8 * l;
    out[pool_ + w] = Fr::from_i64(difference);
  }
}

Secret<Fr> NetworkRows::masks(const Fr* R) const {
  Secret<Fr> out(width_, Fr::zero());
  for (size_t i = 0; i < D_.range_columns.size(); ++i) out[i] = -R[D_.range_columns[i]];
  size_t i = D_.range_columns.size();
  const Fr square = lambda_.square();
  out[i++] = -(R[D_.hi()] + square * R[D_.sel()] + square * lambda_ * R[D_.sat()]);
  if (!D_.functions.empty()) out[i] = -(R[D_.z()] + square * R[D_.y()]);
  for (unsigned g = 0; g < D_.groups3; ++g) out[helper_ + g] = R[D_.columns + g];
  out[clamp_] = R[D_.z()] - Fr::from_u64(D_.top) * R[D_.sat()];
  out[clamp_ + 1] = R[D_.sel()];
  for (unsigned a = 0; a < D_.A; ++a) out[clamp_ + 2] += Fr::from_u64(uint64_t(1) << 8 * a) * R[D_.lo(a)];
  for (unsigned w = 0; w < D_.PW; ++w)
    for (unsigned l = 0; l < D_.NL; ++l)
      out[pool_ + w] += Fr::from_u64(uint64_t(1) << 8 * l) * R[D_.d(w, l)];
  return out;
}

Fr NetworkRows::value(const Fr* f) const {
  Fr sum = eta_powers_[0] * (f[clamp_] - f[clamp_ + 1] * f[clamp_ + 2]);
  if (D_.PW) {
    Fr product = f[pool_];
    for (unsigned w = 1; w < D_.PW; ++w) product *= f[pool_ + w];
    sum += eta_powers_[1] * product;
  }
  for (unsigned g = 0; g < D_.groups3; ++g) {
    const Fr* t = f + 3 * g;
    const Fr& h = f[helper_ + g];
    const unsigned count = std::min(3U, D_.lookups - 3 * g);
    Fr c;
    if (count == 3) {
      const Fr pair = t[0] * t[1];
      c = pair * (h * t[2] - Fr::one()) - (t[0] + t[1]) * t[2];
    } else if (count == 2) {
      c = h * (t[0] * t[1]) - t[0] - t[1];
    } else {
      c = h * t[0] - Fr::one();
    }
    sum += eta_powers_[2 + g] * c;
  }
  return sum;
}

Fr NetworkRows::leading(const Fr* f) const {
  Fr sum = Fr::zero();
  if (D_.PW == 4) sum = eta_powers_[1] * (f[pool_] * f[pool_ + 1] * (f[pool_ + 2] * f[pool_ + 3]));
  for (unsigned g = 0; 3 * g + 2 < D_.lookups; ++g) {
    const Fr* t = f + 3 * g;
    sum += eta_powers_[2 + g] * (t[0] * t[1] * (t[2] * f[helper_ + g]));
  }
  return sum;
}

}  // namespace zkserve
