#include <algorithm>

#include "accumulator.hpp"
#include "opening.hpp"
#include "prover.hpp"

namespace zkserve {

Attempt::Attempt(const Version& version, const Commitments& commitments, Backend& backend, Threads& threads,
                 const Statement& statement, const Witness& witness, const Secret<int32_t>& input_tile,
                 const Fr& input_blind, Random& random, const Control& control)
    : version_(version), D_(version.D), commitments_(commitments), backend_(backend), threads_(threads),
      statement_(statement), witness_(witness), input_tile_(input_tile), input_blind_(input_blind), random_(random), control_(control) {}

std::vector<uint8_t> Attempt::run() {
  out_.transcript.absorb(statement_, D_.digest);
  control_.phase("witness commitment");
  commit_fresh();
  control_.phase("helper commitment");
  commit_helpers();
  control_.phase("main sumcheck");
  prove_constraints();
  control_.phase("final sumcheck");
  prove_claims();
  control_.phase("opening");
  open();
  return std::move(out_.bytes);
}

Secret<Fr> Attempt::scalars(size_t count) {
  Secret<Fr> out(count);
  for (Fr& v : out) v = draw();
  return out;
}

void Attempt::commit_fresh() {
  fresh_blinds_ = scalars(D_.nw);
  fresh_masks_ = scalars(D_.w_masks.size());
  for (size_t t = 0; t < D_.nw; ++t) {
    control_.check();
    out_.send(fresh_commitment(t));
  }
  draw_lookup_challenges(out_.transcript, challenges_);
}

Secret<Fr> Attempt::lookup_terms() const {
  const Fr &alpha = challenges_.alpha, &lambda = challenges_.lambda;
  const Fr square = lambda.square(), cube = square * lambda;
  Secret<Fr> out(size_t(1) << D_.kt, alpha);
  for (size_t s = 0; s < 256; ++s) {
    out[s] -= Fr::from_u64(s);
    out[256 + s] -= Fr::from_u64(s) + lambda;
    if (s == 128) out[256 + s] -= square;
    if (s > 128) out[256 + s] -= cube;
  }
  for (size_t j = 0; j < D_.functions.size(); ++j)
    for (size_t s = 0; s < 256; ++s)
      out[512 + 256 * j + s] -=
          Fr::from_u64(s) + lambda * Fr::from_u64(2 + j) + square * Fr::from_u64(D_.functions[j][s]);
  return out;
}

void Attempt::commit_helpers() {
  terms_ = lookup_terms();
  if (std::any_of(terms_.begin(), terms_.end(), [](const Fr& t) { return t.is_zero(); })) throw Again();
  inverses_ = terms_;
  batch_inverse(inverses_.data(), inverses_.size());

  helpers_.assign(size_t(D_.nh) << D_.k, Fr::zero());
  for (uint64_t cell = 0; cell < D_.nE; ++cell) helpers_[D_.roff + cell] = draw();
  for (uint64_t cell = 0; cell <= D_.degree_sum; ++cell) helpers_[D_.goff + cell] = draw();
  for (uint64_t cell : D_.h_masks) helpers_[cell] = draw();
  helper_blinds_ = scalars(D_.nh * D_.h_blinds);
  const int32_t* counts = &witness_.cells[D_.moff];
  for (size_t t = 0; t < size_t(1) << D_.kt; ++t) helpers_[D_.hT + t] = Fr::from_i64(counts[t]) * inverses_[t];
  rows_ = std::make_unique<NetworkRows>(D_, witness_, terms_.data(), inverses_.data(), challenges_);
  threads_.parallel(size_t(1) << D_.nr, 256, [&](size_t begin, size_t end, unsigned) {
    Secret<Fr> row(D_.groups3);
    for (size_t r = begin; r < end; ++r) {
      rows_->helpers(r, row.data());
      for (unsigned g = 0; g < D_.groups3; ++g) helpers_[D_.hoff + (size_t(g) << D_.nr) + r] = row[g];
    }
  });
  for (size_t t = 0; t < D_.nh; ++t) {
    control_.check();
    out_.send(helper_commitment(t));
  }
  draw_constraint_challenges(D_, version_.multipliers, out_.transcript, challenges_);
}

G1 Attempt::fresh_commitment(size_t tile) const {
  return commitments_.fresh(tile, witness_, D_.w_masks, fresh_masks_, fresh_blinds_[tile]);
}

G1 Attempt::helper_commitment(size_t tile) const {
  return commitments_.helpers(tile, witness_, helpers_, inverses_, &helper_blinds_[tile * D_.h_blinds]);
}

void Attempt::prove_constraints() {
  // eta is known only now.
  rows_ = std::make_unique<NetworkRows>(D_, witness_, terms_.data(), inverses_.data(), challenges_);
  const Fr* R = &helpers_[D_.roff];
  std::vector<std::unique_ptr<Instance>> instances;
  size_t next = 0;
  for (size_t l = 0; l < D_.equations.size(); ++l) {
    const Equation& e = D_.equations[l];
    const EquationVectors& v = challenges_.equations[l];
    const Fr scale = challenges_.eta.pow(l) * v.multiplier;
    for (const Product& p : e.products) {
      control_.check();
      const Values viewed = p.views.empty() ? Values{} : view(witness_.tensors[p.source], p.views);
      Secret<Fr> a = backend_.left_table(e, p, v, version_.cells.data());
      Secret<Fr> b = backend_.right_table(e, p, v, p.views.empty() ? witness_.tensors[p.source] : viewed);
      instances.push_back(std::make_unique<ProductInstance>(p.kappa, std::move(a), std::move(b), scale, R + next));
      next += 2;
    }
  }
  instances.push_back(std::make_unique<RowInstance>(D_, *rows_, challenges_.tau, row_sum(*rows_), R + next, backend_));
  next += D_.columns + D_.groups3;
  const size_t entries = size_t(1) << D_.kt;
  Secret<Fr> counts(entries);
  for (size_t t = 0; t < entries; ++t) counts[t] = Fr::from_i64(witness_.cells[D_.moff + t]);
  const Fr* h = &helpers_[D_.hT];
  instances.push_back(std::make_unique<TableInstance>(
      challenges_.tau, Secret<Fr>(terms_.begin(), terms_.begin() + ptrdiff_t(entries)), Secret<Fr>(h, h + entries),
      std::move(counts), challenges_.eta.pow(D_.equations.size() + 2 + D_.groups3), Fr::zero(), R + next));

  MainSumcheck sumcheck(D_, std::move(instances), &helpers_[D_.goff]);
  V_ = sumcheck.value();
  out_.send(V_);
  for (unsigned i = 0; i < D_.n; ++i) {
    control_.check();
    const Polynomial message = sumcheck.round();
    for (size_t c = 0; c < message.size(); ++c)
      if (c != 1) out_.send(message[c]);
    const Fr r = out_.transcript.challenge();
    challenges_.r.push_back(r);
    sumcheck.bind(r);
  }
  const Fr last = challenges_.r.back(), z = last * (Fr::one() - last);
  if (z.is_zero()) throw Again();
  g_ = sumcheck.libra_value();

  // The instances' factors, with those of the columns between the products' and the helpers'.
  E_ = sumcheck.factors();
  const size_t products = 2 * D_.products.size();
  Secret<Fr> columns = columns_at(Vector(challenges_.r.end() - ptrdiff_t(D_.nr), challenges_.r.end()));
  for (size_t c = 0; c < columns.size(); ++c) columns[c] += z * R[products + c];
  E_.insert(E_.begin() + ptrdiff_t(products), columns.begin(), columns.end());
  for (const Fr& value : E_) out_.send(value);
  draw_mask_challenges(D_, out_.transcript, challenges_);
}

Secret<Fr> Attempt::columns_at(const Vector& point) const {
  const Vector weights = eq_vector(point);
  Secret<Fr> out(D_.columns);
  const size_t active = std::min(rows_->active(), weights.size());
  threads_.parallel(D_.columns, 1, [&](size_t begin, size_t end, unsigned) {
    for (size_t c = begin; c < end; ++c) {
      SignedAccumulator<34> sum;
      const int32_t* column = &witness_.cells[c << D_.nr];
      for (size_t row = 0; row < active; ++row) sum.add(weights[row], column[row]);
      out[c] = sum.reduce();
    }
  });
  return out;
}

Fr Attempt::mask_sum() const {
  // The last tile of family w meets the turned point; it comes last here.
  const size_t tiles = D_.nh + 1, first = (D_.nw - 1) * D_.N, grain = 4096;
  Vector points[2] = {challenges_.chi, rotated(challenges_.chi)}, weights[2];
  threads_.parallel(2, 1, [&](size_t i, size_t, unsigned) { weights[i] = eq_vector(points[i]); });
  Secret<Fr> sums(tiles * (D_.N / grain + 1), Fr::zero());
  threads_.parallel(D_.N, grain, [&](size_t begin, size_t end, unsigned) {
    Fr* sum = &sums[begin / grain * tiles];
    for (size_t t = 0; t < D_.nh; ++t)
      for (size_t i = begin; i < end; ++i) sum[t] += weights[0][i] * helpers_[t * D_.N + i];
    SignedAccumulator<34> cells;
    for (size_t i = begin; i < end; ++i) cells.add(weights[1][i], witness_.cells[first + i]);
    sum[D_.nh] = cells.reduce();
  });
  for (size_t i = tiles; i < sums.size(); ++i) sums[i % tiles] += sums[i];
  for (size_t i = 0; i < D_.w_masks.size(); ++i) sums[D_.nh] += weights[1][D_.w_masks[i] % D_.N] * fresh_masks_[i];
  Fr total = challenges_.chi_x.square() * sums[D_.nh];
  for (size_t t = 0; t < D_.nh; ++t) total += (Fr::one() + Fr::from_u64(t) * challenges_.chi_x) * sums[t];
  return total;
}

void Attempt::prove_claims() {
  s_M_ = mask_sum();
  out_.send(s_M_);
  challenges_.beta = out_.transcript.challenge();
  const Claims all = claims(D_, statement_, challenges_, V_, E_, g_, s_M_);

  for (size_t t = 0; t < D_.nW; ++t) tiles_.push_back({Family::weights, t, &version_.cells[t * D_.N], nullptr, {}});
  for (size_t t = 0; t < D_.nw; ++t) tiles_.push_back({Family::fresh, t, &witness_.cells[t * D_.N], nullptr, {}});
  for (size_t i = 0; i < D_.w_masks.size(); ++i)
    tiles_.back().extra.push_back({D_.w_masks[i] % D_.N, fresh_masks_[i]});
  for (size_t t = 0; t < D_.nh; ++t) tiles_.push_back({Family::helper, t, nullptr, &helpers_[t * D_.N], {}});
  if (statement_.mode == Mode::hidden_input)
    tiles_.push_back({Family::input, 0, input_tile_.data(), nullptr, {}});

  control_.check();
  const auto sumcheck = backend_.linear_sumcheck(tiles_, all.terms);
  for (unsigned i = 0; i < D_.k; ++i) {
    control_.check();
    const auto [c0, c2] = sumcheck->round();
    out_.send(c0);
    out_.send(c2);
    rho_.push_back(out_.transcript.challenge());
    sumcheck->fold(rho_.back());
  }
  L_ = sumcheck->values();
}

void Attempt::open() {
  Secret<Fr> f = backend_.combine(tiles_, L_);
  f.resize(D_.N + D_.h_blinds, Fr::zero());
  for (size_t t = 0; t < tiles_.size(); ++t) {
    const size_t index = tiles_[t].index;
    switch (tiles_[t].family) {
      case Family::weights: f[D_.N] += L_[t] * version_.blinds[index]; break;
      case Family::fresh: f[D_.N] += L_[t] * fresh_blinds_[index]; break;
      case Family::input: f[D_.N] += L_[t] * input_blind_; break;
      case Family::helper:
        for (size_t i = 0; i < D_.h_blinds; ++i) f[D_.N + i] += L_[t] * helper_blinds_[index * D_.h_blinds + i];
    }
  }
  open_polynomial(backend_, threads_, f, rho_, out_, control_);
}

}  // namespace zkserve
