#include "opening.hpp"

#include <algorithm>

namespace zkserve {
namespace {

Fr evaluate(const Secret<Fr>& p, const Fr& x) {
  Fr value = Fr::zero();
  for (size_t i = p.size(); i-- > 0;) value = value * x + p[i];
  return value;
}

void add(Secret<Fr>& sum, const Fr& factor, const Secret<Fr>& p) {
  if (sum.size() < p.size()) sum.resize(p.size(), Fr::zero());
  for (size_t i = 0; i < p.size(); ++i) sum[i] += factor * p[i];
}

// (p - p(x)) / (X - x)
Secret<Fr> quotient(const Secret<Fr>& p, const Fr& x, Threads& threads) {
  // Each thread divides a stretch as if nothing came from above it; what does is a power of x each step on.
  const size_t parts = threads.count(), length = (p.size() + parts - 1) / parts;
  Secret<Fr> out(p.size());
  Secret<Fr> carries(parts + 1, Fr::zero());
  threads.parallel(parts, 1, [&](size_t part, size_t, unsigned) {
    Fr running = Fr::zero();
    for (size_t i = std::min(p.size(), (part + 1) * length); i-- > part * length;) {
      out[i] = running;
      running = running * x + p[i];
    }
    carries[part] = running;
  });
  for (size_t part = parts - 1; part-- > 0;) {
    const size_t steps = std::min(p.size(), (part + 1) * length) - std::min(p.size(), part * length);
    carries[part] += carries[part + 1] * x.pow(steps);
  }
  threads.parallel(parts, 1, [&](size_t part, size_t, unsigned) {
    Fr running = carries[part + 1];
    for (size_t i = std::min(p.size(), (part + 1) * length); i-- > part * length; running *= x) out[i] += running;
  });
  out.pop_back();
  return out;
}

// sum_i (a[i + m] b[i] + a[i] b[i + m])
Fr correlation(const Secret<Fr>& a, const Vector& b, size_t m) {
  Fr sum = Fr::zero();
  for (size_t i = 0; i + m < a.size() && i < b.size(); ++i) sum += a[i + m] * b[i];
  for (size_t i = 0; i < a.size() && i + m < b.size(); ++i) sum += a[i] * b[i + m];
  return sum;
}

}  // namespace

void open_polynomial(Backend& backend, Threads& threads, const Secret<Fr>& f, const Vector& rho,
                     ProofWriter& out, const Control& control) {
  const unsigned low_bits = unsigned(rho.size()) / 2, high_bits = unsigned(rho.size()) - low_bits;
  const size_t b = size_t(1) << low_bits, rows = size_t(1) << high_bits;
  const Vector low = eq_vector(rho.data() + high_bits, low_bits), high = eq_vector(rho.data(), high_bits);
  // f as a matrix of rows + 1 rows of b; the last holds the blinds.
  auto cells_of = [&](size_t j) { return std::min(b, f.size() - b * j); };

  Secret<Fr> h(rows + 1, Fr::zero());
  threads.parallel(rows + 1, 64, [&](size_t begin, size_t end, unsigned) {
    for (size_t j = begin; j < end; ++j)
      for (size_t i = 0; i < cells_of(j); ++i) h[j] += low[i] * f[b * j + i];
  });
  out.send(backend.commit(0, h.data(), h.size()));
  const Fr theta = out.transcript.challenge(), gamma = out.transcript.challenge();
  if (theta.is_zero()) throw Again();

  // f = q (X^b - theta) + g, from the highest row down.
  Secret<Fr> g(b, Fr::zero()), q(f.size() - b);
  threads.parallel(b, std::max<size_t>(1, b / (4 * threads.count())), [&](size_t begin, size_t end, unsigned) {
    for (size_t j = rows + 1; j-- > 0;)
      for (size_t i = begin; i < end; ++i) {
        if (j < rows && b * j + i < q.size()) q[b * j + i] = g[i];
        g[i] *= theta;
        if (i < cells_of(j)) g[i] += f[b * j + i];
      }
  });
  for (size_t i = 0; i < b; ++i) q[b - 1 - i] += g[i];

  Vector Q(rows + 1, Fr::zero());
  Fr power = Fr::one();
  for (size_t j = 0; j <= rows; ++j, power *= theta) Q[j] = (j < rows ? gamma * high[j] : Fr::zero()) - power;
  Secret<Fr> S(rows);
  threads.parallel(rows, 16, [&](size_t begin, size_t end, unsigned) {
    for (size_t m = begin; m < end; ++m) S[m] = correlation(g, low, m + 1) + correlation(h, Q, m + 1);
  });

  control.phase("quotient commitment");
  out.send(backend.commit(0, q.data(), q.size()));
  out.send(backend.commit(0, g.data(), g.size()));
  out.send(backend.commit(0, S.data(), S.size()));
  const Fr zeta = out.transcript.challenge();
  if (zeta.is_zero()) throw Again();
  const Fr inverse = zeta.inverse();
  for (const Fr& v : {evaluate(g, zeta), evaluate(g, inverse), evaluate(h, zeta), evaluate(h, inverse),
                      evaluate(S, zeta), inverse})
    out.send(v);
  const Fr nu = out.transcript.challenge();

  control.phase("opening commitment");
  // q becomes f' + nu g + nu^2 h + nu^3 S with f' = f - (zeta^b - theta) q.
  const Fr factor = theta - zeta.pow(b);
  q.resize(f.size(), Fr::zero());
  threads.parallel(f.size(), 4096, [&](size_t begin, size_t end, unsigned) {
    for (size_t i = begin; i < end; ++i) q[i] = f[i] + factor * q[i];
  });
  Secret<Fr> second = g;
  add(second, nu, h);
  add(second, nu.square(), S);
  add(q, nu, second);
  const Secret<Fr> first_quotient = quotient(q, zeta, threads), second_quotient = quotient(second, inverse, threads);
  out.send(backend.commit(0, first_quotient.data(), first_quotient.size()));
  out.send(backend.commit(0, second_quotient.data(), second_quotient.size()));
}

}  // namespace zkserve
