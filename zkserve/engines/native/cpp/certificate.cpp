#include "certificate.hpp"

#include <algorithm>

#include "functionals.hpp"
#include "masking.hpp"

namespace zkserve {
namespace {

constexpr const char* label = "zkserve/native/certificate/v1";

// H(D with zeros for the certificate digest), which ends D.
Digest blank_digest(const Description& D) {
  std::vector<uint8_t> bytes = D.bytes;
  std::fill(bytes.end() - 32, bytes.end(), 0);
  return Hasher().bytes(bytes.data(), bytes.size()).finish();
}

// Everything the matrix depends on beside the layout.
struct Sample {
  Mode mode;
  Challenges c;
  std::vector<uint32_t> multipliers;
  MaskPoint at;
};

uint32_t multiplier(Sampler& from) {
  uint8_t value[32];
  from.next().to_bytes(value);
  uint32_t residue = 0;
  for (uint8_t byte : value) residue = (residue << 8 | byte) % 0xffff;
  return 1 + residue;
}

size_t total(const std::vector<unsigned>& bits) {
  size_t out = 0;
  for (unsigned b : bits) out += b;
  return out;
}

Sample draw(const Description& D, const std::vector<uint32_t>* multipliers, Sampler& from, Mode mode) {
  Sample x;
  x.mode = mode;
  Challenges& c = x.c;
  c.alpha = from.next();
  c.lambda = from.next();
  c.eta = from.next();
  c.tau = from.next(D.n);
  std::vector<Vector> points;
  for (const Equation& e : D.equations) points.push_back(from.next(total(e.point_bits)));
  c.output_point = from.next(total(D.output_bits));
  c.r = from.next(D.n);
  c.chi_x = from.next();
  c.chi = from.next(D.k);
  c.beta = from.next();
  x.at = MaskPoint::draw(D.k, c.chi_x, c.chi, from);
  if (multipliers)
    x.multipliers = *multipliers;
  else
    for (size_t i = 0; i < D.multipliers; ++i) x.multipliers.push_back(multiplier(from));
  for (size_t l = 0; l < D.equations.size(); ++l)
    c.equations.push_back(equation_vectors(D, D.equations[l], points[l], x.multipliers));
  return x;
}

// Terms do not depend on a claim's values, so any will do.
std::vector<Term> terms_of(const Description& D, const Sample& x) {
  Statement s = {};
  s.mode = x.mode;
  s.input.resize(x.mode == Mode::open_input ? D.input_bytes : 32);
  s.outputs.resize(D.outputs);
  s.multipliers = x.multipliers;
  return claims(D, s, x.c, Fr::zero(), Vector(D.nE, Fr::zero()), Fr::zero(), Fr::zero()).terms;
}

struct Run {
  Mode mode;
  uint8_t sample;
  const std::vector<uint32_t>* multipliers;  // none: drawn
};

std::vector<Rank> run_all(const Description& D, const std::vector<Run>& runs, Threads& threads) {
  const Digest description = blank_digest(D);
  std::vector<Rank> out(runs.size());
  threads.parallel(runs.size(), 1, [&](size_t begin, size_t end, unsigned) {
    for (size_t i = begin; i < end; ++i) {
      Sampler from(Hasher().text(label).digest(description).u8(uint8_t(runs[i].mode)).u8(runs[i].sample));
      const Sample x = draw(D, runs[i].multipliers, from, runs[i].mode);
      out[i] = masking_rank(D, terms_of(D, x), x.at, from);
    }
  });
  return out;
}

const std::vector<Run> samples = {{Mode::open_input, 0, nullptr},
                                  {Mode::open_input, 1, nullptr},
                                  {Mode::hidden_input, 0, nullptr},
                                  {Mode::hidden_input, 1, nullptr}};

Digest digest_of(const Description& D, const std::vector<Rank>& ranks) {
  Hasher h;
  h.text(label).digest(blank_digest(D));
  for (size_t i = 0; i < samples.size(); ++i)
    h.u32(uint32_t(ranks[i].rank)).u32(uint32_t(ranks[i].columns)).u32(uint32_t(ranks[i].coordinates));
  return h.finish();
}

}  // namespace

Digest certify(const Description& D, Threads& threads) { return digest_of(D, run_all(D, samples, threads)); }

void check_certificate(const Description& D, const std::vector<uint32_t>* multipliers, Threads& threads) {
  std::vector<Run> runs = samples;
  if (multipliers) {
    if (multipliers->size() != D.multipliers)
      throw Refused("there are " + std::to_string(multipliers->size()) + " multipliers, expected " +
                    std::to_string(D.multipliers));
    for (uint32_t m : *multipliers)
      if (m < 1 || m >= 1 << 16) throw Refused("a multiplier is not in 1 ... 2^16 - 1");
    for (const Run& run : samples) runs.push_back({run.mode, run.sample, multipliers});
  }
  if (digest_of(D, run_all(D, runs, threads)) != D.certificate)
    throw Refused("the description carries the certificate of another layout");
}

}  // namespace zkserve
