#include "verifier.hpp"

#include <algorithm>

#include "constraints.hpp"
#include "functionals.hpp"
#include "verification.hpp"

namespace zkserve {
namespace {

constexpr int64_t output_bound = int64_t(1) << 62;

// The parts of a proof, in the order of section 12; all values are canonical once it is parsed.
struct Proof {
  Digest context;
  const uint8_t* weight_bytes;
  const uint8_t* input_bytes;  // of C_X; hidden mode only
  std::vector<uint32_t> multipliers;
  Points weights, input, fresh, helpers;  // C_W, C_X, C_w, C_h
  Fr V;
  std::vector<Vector> rounds;
  Vector E;
  Fr s_M;
  std::vector<Vector> final_rounds;
  Opening opening;
};

Proof parse(const Description& D, Mode mode, const uint8_t* data, size_t size) {
  need_proof(size == D.proof_bytes(unsigned(mode)));
  ProofReader r(data, size);
  Proof p;
  std::copy_n(r.take(32), 32, p.context.begin());
  ProofReader prefix = r;
  p.weight_bytes = prefix.take(64 * size_t(D.nW));
  p.weights = r.points(D.nW);
  p.input_bytes = mode == Mode::hidden_input ? prefix.take(64) : nullptr;
  p.input = r.points(mode == Mode::hidden_input ? 1 : 0);
  p.multipliers = r.multipliers(D.multipliers);
  p.fresh = r.points(D.nw);
  p.helpers = r.points(D.nh);
  p.V = r.scalars(1)[0];
  for (unsigned degree : D.degrees) p.rounds.push_back(r.scalars(degree));
  p.E = r.scalars(D.nE);
  p.s_M = r.scalars(1)[0];
  for (unsigned i = 0; i < D.k; ++i) p.final_rounds.push_back(r.scalars(2));
  p.opening = Opening::read(r);
  r.finish();
  for (const Points* points : {&p.weights, &p.input})
    for (const G1Affine& point : *points) need_proof(!point.is_infinity());
  return p;
}

// F: the main sumcheck's bracket at r, without g.
Fr bracket(const Description& D, const Challenges& c, const Vector& E) {
  const Fr half = Fr::inv2();
  Vector eta = {Fr::one()};
  while (eta.size() < D.equations.size() + 3 + D.groups3) eta.push_back(eta.back() * c.eta);
  Fr F = Fr::zero();
  for (size_t i = 0; i < D.products.size(); ++i) {
    const size_t l = D.products[i].equation;
    F += half.pow(D.n - D.product(D.products[i]).kappa) * eta[l] * c.equations[l].multiplier * E[2 * i] * E[2 * i + 1];
  }
  const Vector row(c.r.end() - D.nr, c.r.end()), table(c.r.end() - D.kt, c.r.end());
  F += half.pow(D.n - D.nr) * eqv(c.tau.data(), row.data(), D.nr) *
       rows_at(D, E.data() + 2 * D.products.size(), kinds_at(D, row), c);
  F += half.pow(D.n - D.kt) * eta.back() * eqv(c.tau.data(), table.data(), D.kt) *
       (E[D.nE - 2] * (c.alpha - table_at(D, table, c.lambda)) - E[D.nE - 1]);
  return F;
}

bool accepts(const Description& D, const Digest& srs, const G2Affine& g2_s, const Digest* context, const Claim& claim,
             const uint8_t* data, size_t size) {
  const bool hidden = claim.mode == Mode::hidden_input;
  need_proof(hidden || claim.mode == Mode::open_input);
  // A hidden input that does not fit tile X has no functional.
  const Tensor& input = D.tensors[0];
  need_proof(!hidden || clog(D.AX) + clog(input.channels) + input.block_bits <= D.k);
  need_proof(claim.input.size() == (hidden ? 32 : D.input_bytes));
  need_proof(claim.outputs.size() == D.outputs);
  for (int64_t y : claim.outputs) need_proof(-output_bound < y && y < output_bound);
  const Proof p = parse(D, claim.mode, data, size);
  need_proof(!context || *context == p.context);
  need_proof(weights_digest(p.weight_bytes, D.nW, p.multipliers) == claim.weights);
  if (hidden) {
    const Digest digest = hidden_input_digest(p.input_bytes);
    need_proof(std::equal(digest.begin(), digest.end(), claim.input.begin()));
  }

  const Statement s = {p.context, claim.mode, srs, claim.weights, claim.input, claim.outputs, p.multipliers};
  Transcript t;
  Challenges c;
  t.absorb(s, D.digest);
  for (const G1Affine& point : p.fresh) t.absorb(point);
  draw_lookup_challenges(t, c);
  for (const G1Affine& point : p.helpers) t.absorb(point);
  draw_constraint_challenges(D, p.multipliers, t, c);

  t.absorb(p.V);
  Fr value = p.V;
  for (const Vector& sent : p.rounds) {
    t.absorb(sent);
    c.r.push_back(t.challenge());
    value = next_claim(value, sent, c.r.back());
  }
  t.absorb(p.E);
  draw_mask_challenges(D, t, c);
  t.absorb(p.s_M);
  c.beta = t.challenge();
  const Claims linear = claims(D, s, c, p.V, p.E, value - bracket(D, c, p.E), p.s_M);

  value = linear.value;
  Vector rho;
  for (const Vector& sent : p.final_rounds) {
    t.absorb(sent);
    rho.push_back(t.challenge());
    value = next_claim(value, sent, rho.back());
  }
  const Points* tiles[family_count] = {&p.weights, &p.fresh, &p.helpers, &p.input};
  return check_opening(D.k, g2_s, p.opening, tiles, evaluate(D, linear.terms, rho), rho, value, t);
}

}  // namespace

bool verify(const Description& D, const Digest& srs, const G2Affine& g2_s, const Digest* context, const Claim& claim,
            const uint8_t* proof, size_t size) noexcept {
  try {
    return accepts(D, srs, g2_s, context, claim, proof, size);
  } catch (...) {
    return false;
  }
}

}  // namespace zkserve
