#include <algorithm>
#include <mutex>

#include "accumulator.hpp"
#include "backend.hpp"
#include "group_sums.hpp"
#include "msm.hpp"

namespace zkserve {
namespace {

// Sums over an eq vector or a fold touch this many cells at a time.
constexpr size_t chunk = 1024;

Fr fold(const Fr& low, const Fr& high, const Fr& r) { return low + r * (high - low); }

// Adds up what threads find.
template <size_t count>
class Sums {
 public:
  void add(const std::array<Fr, count>& part) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < count; ++i) total_[i] += part[i];
  }
  const std::array<Fr, count>& total() const { return total_; }

 private:
  std::mutex mutex_;
  std::array<Fr, count> total_{};
};

class CpuRowSumcheck : public RowSumcheck {
 public:
  CpuRowSumcheck(const Rows& rows, size_t size, Threads& threads)
      : rows_(rows), threads_(threads), width_(rows.width()), size_(size), active_(rows.active()), blank_(width_) {
    if (active_ < size_) rows_.factors(active_, blank_.data());
  }

  std::array<Fr, 4> round(const Fr* weights) override {
    const size_t half = size_ / 2;
    Sums<4> sums;
    threads_.parallel(std::min(half, active_), grain, [&](size_t begin, size_t end, unsigned) {
      Secret<Fr> low(width_), high(width_);
      std::array<Fr, 4> part{};
      for (size_t x = begin; x < end; ++x) {
        load(x, low.data());
        load(x + half, high.data());
        const Fr& weight = weights[x];
        part[0] += weight * rows_.value(low.data());
        for (size_t i = 0; i < width_; ++i) {
          const Fr slope = high[i] - low[i];
          low[i] -= slope;
          high[i] += slope;
        }
        part[1] += weight * rows_.value(low.data());
        part[2] += weight * rows_.value(high.data());
        // From X = -1 to X = 2 it is three slopes.
        for (size_t i = 0; i < width_; ++i) low[i] = high[i] - low[i];
        part[3] += weight * rows_.leading(low.data());
      }
      sums.add(part);
    });
    std::array<Fr, 4> total = sums.total();
    static const Fr over_81 = Fr::from_u64(81).inverse();
    total[3] *= over_81;
    return total;
  }

  void fold(const Fr& r) override {
    const size_t half = size_ / 2, active = std::min(half, active_);
    Secret<Fr> folded(active * width_);
    threads_.parallel(active, grain, [&](size_t begin, size_t end, unsigned) {
      Secret<Fr> low(width_), high(width_);
      for (size_t x = begin; x < end; ++x) {
        load(x, low.data());
        load(x + half, high.data());
        for (size_t i = 0; i < width_; ++i) folded[x * width_ + i] = zkserve::fold(low[i], high[i], r);
      }
    });
    cells_ = std::move(folded);
    size_ = half;
    active_ = active;
  }

  std::pair<Secret<Fr>, Secret<Fr>> last_rows() override {
    Secret<Fr> low(width_), high(width_);
    load(0, low.data());
    load(1, high.data());
    return {std::move(low), std::move(high)};
  }

 private:
  static constexpr size_t grain = 64;

  void load(size_t row, Fr* out) const {
    if (row >= active_)
      std::copy(blank_.begin(), blank_.end(), out);
    else if (cells_.empty())
      rows_.factors(row, out);
    else
      std::copy_n(&cells_[row * width_], width_, out);
  }

  const Rows& rows_;
  Threads& threads_;
  size_t width_, size_, active_;
  Secret<Fr> blank_;
  Secret<Fr> cells_;  // folded rows, empty before the first fold
};

// A term as an outer product of two vectors, the first with the coefficient in it.
struct Outer {
  size_t offset;  // in the tile
  Vector high, low;
};

Vector outer(const Vector& a, const Vector& b) {
  Vector out(a.size() * b.size());
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < b.size(); ++j) out[i * b.size() + j] = a[i] * b[j];
  return out;
}

Outer expand_term(const Term& term, uint64_t N) {
  constexpr size_t longest = 4096;
  std::vector<Vector> factors;
  for (const Factor& f : term.factors) factors.push_back(expand(f));
  Vector low = {Fr::one()};
  while (!factors.empty() && (low.size() == 1 || low.size() * factors.back().size() <= longest)) {
    low = outer(factors.back(), low);
    factors.pop_back();
  }
  Vector high = {term.coefficient};
  for (const Vector& f : factors) high = outer(high, f);
  return {size_t(term.offset % N), std::move(high), std::move(low)};
}

class CpuLinearSumcheck : public LinearSumcheck {
 public:
  CpuLinearSumcheck(uint64_t N, const std::vector<Tile>& tiles, const std::vector<Term>& terms, Threads& threads)
      : tiles_(tiles), threads_(threads), size_(N), functionals_(tiles.size()), cells_(tiles.size()) {
    std::vector<Outer> products(terms.size());
    threads_.parallel(terms.size(), 1, [&](size_t begin, size_t end, unsigned) {
      for (size_t i = begin; i < end; ++i) products[i] = expand_term(terms[i], N);
    });
    std::vector<std::vector<const Outer*>> own(tiles.size());
    for (size_t t = 0; t < tiles.size(); ++t) {
      for (size_t i = 0; i < terms.size(); ++i)
        if (terms[i].family == tiles[t].family && terms[i].offset / N == tiles[t].index) own[t].push_back(&products[i]);
      functionals_[t].assign(N, Fr::zero());
    }
    over_tiles([&](size_t t, size_t begin, size_t end) {
      for (const Outer* o : own[t]) add(*o, begin, end, functionals_[t].data());
    });
  }

  std::array<Fr, 2> round() override {
    const size_t half = size_ /= 2;
    Sums<2> sums;
    over_tiles([&](size_t t, size_t begin, size_t end) {
      const Fr* L = functionals_[t].data();
      std::array<Fr, 2> part{};
      if (folded_ || !tiles_[t].small) {
        const Fr* P = folded_ ? cells_[t].data() : tiles_[t].full;
        for (size_t x = begin; x < end; ++x) {
          part[0] += L[x] * P[x];
          part[1] += (L[x + half] - L[x]) * (P[x + half] - P[x]);
        }
      } else {
        const int32_t* P = tiles_[t].small;
        SignedAccumulator<34> c0, c2;
        for (size_t x = begin; x < end; ++x) {
          c0.add(L[x], P[x]);
          c2.add(L[x + half] - L[x], int64_t(P[x + half]) - P[x]);
        }
        part = {c0.reduce(), c2.reduce()};
      }
      sums.add(part);
    });
    for (size_t t = 0; t < tiles_.size() && !folded_; ++t)
      for (const auto& [cell, value] : tiles_[t].extra) {
        const Fr* L = functionals_[t].data();
        const bool upper = cell >= half;
        const Fr difference = (L[cell % half + half] - L[cell % half]) * value;
        sums.add({upper ? Fr::zero() : L[cell] * value, upper ? difference : -difference});
      }
    return sums.total();
  }

  void fold(const Fr& r) override {
    const size_t half = size_;
    const Fr rest = Fr::one() - r;
    constexpr int64_t shift = int64_t(1) << 32;
    const Fr shifted = Fr::from_i64(shift);
    for (size_t t = 0; t < tiles_.size() && !folded_; ++t) cells_[t].resize(half);
    over_tiles([&](size_t t, size_t begin, size_t end) {
      Fr *L = functionals_[t].data(), *out = cells_[t].data();
      for (size_t x = begin; x < end; ++x) L[x] = zkserve::fold(L[x], L[x + half], r);
      if (folded_ || !tiles_[t].small) {
        const Fr* P = folded_ ? out : tiles_[t].full;
        for (size_t x = begin; x < end; ++x) out[x] = zkserve::fold(P[x], P[x + half], r);
      } else {
        const int32_t* P = tiles_[t].small;
        for (size_t x = begin; x < end; ++x) {
          Accumulator sum;
          sum.add(rest, uint64_t(P[x] + shift));
          sum.add(r, uint64_t(P[x + half] + shift));
          out[x] = sum.reduce() - shifted;
        }
      }
    });
    for (size_t t = 0; t < tiles_.size() && !folded_; ++t) {
      for (const auto& [cell, value] : tiles_[t].extra) cells_[t][cell % half] += (cell >= half ? r : rest) * value;
      functionals_[t].resize(half);
      functionals_[t].shrink_to_fit();
    }
    folded_ = true;
  }

  Vector values() override {
    Vector out;
    for (const Vector& L : functionals_) out.push_back(L[0]);
    return out;
  }

 private:
  // Adds the part of a product that lies in cells [begin, end).
  static void add(const Outer& o, size_t begin, size_t end, Fr* cells) {
    const size_t length = o.low.size();
    begin = std::max(begin, o.offset);
    end = std::min(end, o.offset + o.high.size() * length);
    for (size_t at = begin; at < end;) {
      const size_t i = (at - o.offset) / length, stop = std::min(end, o.offset + (i + 1) * length);
      const Fr& high = o.high[i];
      const Fr* low = &o.low[(at - o.offset) % length];
      // A functional is public, so its zeros may be skipped.
      if (!high.is_zero())
        for (size_t j = at; j < stop; ++j, ++low) cells[j] += high * *low;
      at = stop;
    }
  }

  // f(tile, begin, end) for stretches of the first `size_` cells of every tile.
  template <class F>
  void over_tiles(F f) {
    threads_.parallel(tiles_.size() * size_, 4 * chunk, [&](size_t begin, size_t end, unsigned) {
      while (begin < end) {
        const size_t t = begin / size_, stop = std::min(end, (t + 1) * size_);
        f(t, begin - t * size_, stop - t * size_);
        begin = stop;
      }
    });
  }

  const std::vector<Tile>& tiles_;
  Threads& threads_;
  size_t size_;  // of tables; between a round and its fold, of what the fold leaves
  bool folded_ = false;
  std::vector<Vector> functionals_;
  std::vector<Secret<Fr>> cells_;  // folded tiles
};

class CpuBackend : public Backend {
 public:
  CpuBackend(const Description& D, const Srs& srs, Threads& threads) : D_(D), srs_(srs), threads_(threads) {}

  G1 commit(size_t first, const Fr* scalars, size_t n) override {
    check(first, n);
    return msm(&srs_.g1[first], scalars, n, threads_);
  }
  G1 commit_small(size_t first, const int32_t* scalars, size_t n) override {
    check(first, n);
    return msm_small(&srs_.g1[first], scalars, n, threads_);
  }
  G1 commit_small(const std::vector<uint32_t>& powers, const int32_t* scalars) override {
    std::vector<G1Affine> bases(powers.size());
    for (size_t i = 0; i < powers.size(); ++i) bases[i] = srs_.g1[powers[i]];
    return msm_small(bases.data(), scalars, powers.size(), threads_);
  }
  const G1Affine& power(size_t i) const override { return srs_.g1.at(i); }
  Secret<G1Affine> group_sums(const std::vector<uint32_t>& powers, const Secret<uint32_t>& groups,
                              size_t count) override {
    return zkserve::group_sums(srs_.g1.data(), powers, groups, count, threads_);
  }
  G1 sum(const Secret<G1Affine>& points, const Secret<Fr>& scalars) override {
    return msm(points.data(), scalars.data(), points.size(), threads_);
  }

  Secret<Fr> left_table(const Equation& e, const Product& p, const EquationVectors& v,
                        const int32_t* weights) override {
    const WeightMap map(e, p);
    const size_t tail = size_t(1) << map.tail_bits, inputs = size_t(1) << p.contraction_bits[0];
    Secret<Fr> out(size_t(1) << p.kappa, Fr::zero());
    // Groups or inputs that no piece holds are zero.
    const size_t stored_g = map.lead_g ? map.lead.size() : 1, stored_i = map.lead_i ? map.lead.size() : inputs;
    const size_t outer = std::min(stored_i, inputs) * std::min<size_t>(stored_g, size_t(1) << p.group_bits);
    const size_t blocks = (tail + block - 1) / block, count = std::min(stored_i, inputs);
    threads_.parallel(outer * blocks, 1, [&](size_t begin, size_t end, unsigned) {
      SignedAccumulator<33> sums[block];
      for (size_t job = begin; job < end; ++job) {
        const size_t g = job / blocks / count, i = job / blocks % count, first = job % blocks * block;
        const size_t width = std::min(block, tail - first);
        std::fill_n(sums, width, SignedAccumulator<33>());
        for (size_t c = 0; c < e.group_outputs; ++c) {
          const int32_t* row = weights + map.at(g, c, i) + first;
          for (size_t k = 0; k < width; ++k) sums[k].add(v.hat_c[c], row[k]);
        }
        for (size_t k = 0; k < width; ++k) out[(g * inputs + i) * tail + first + k] = sums[k].reduce();
      }
    });
    return out;
  }

  Secret<Fr> right_table(const Equation& e, const Product& p, const EquationVectors& v,
                         const Values& source) override {
    Secret<Fr> out(size_t(1) << p.kappa, Fr::zero());
    const unsigned tail_bits = p.kappa - p.group_bits - p.contraction_bits[0];
    threads_.parallel(size_t(e.groups) * p.group_inputs, 1, [&](size_t begin, size_t end, unsigned) {
      for (size_t job = begin; job < end; ++job) {
        const size_t g = job / p.group_inputs, i = job % p.group_inputs;
        Fr* at = &out[((g << p.contraction_bits[0]) + i) << tail_bits];
        if (p.gemm)
          gemm_row(p, v, source, p.s0 + job, at);
        else
          conv_row(e, p, v, source, p.s0 + job, at);
        for (size_t k = 0; k < size_t(1) << tail_bits; ++k) at[k] *= v.hat_g[g];
      }
    });
    return out;
  }

  std::unique_ptr<RowSumcheck> row_sumcheck(const Rows& rows) override {
    return std::make_unique<CpuRowSumcheck>(rows, size_t(1) << D_.nr, threads_);
  }
  std::unique_ptr<LinearSumcheck> linear_sumcheck(const std::vector<Tile>& tiles,
                                                  const std::vector<Term>& terms) override {
    return std::make_unique<CpuLinearSumcheck>(D_.N, tiles, terms, threads_);
  }

  Secret<Fr> combine(const std::vector<Tile>& tiles, const Vector& factors) override {
    Secret<Fr> out(D_.N);
    threads_.parallel(D_.N, chunk, [&](size_t begin, size_t end, unsigned) {
      for (size_t x = begin; x < end; ++x) {
        SignedAccumulator<34> sum;
        Fr rest = Fr::zero();
        for (size_t t = 0; t < tiles.size(); ++t) {
          if (tiles[t].small)
            sum.add(factors[t], tiles[t].small[x]);
          else
            rest += factors[t] * tiles[t].full[x];
        }
        out[x] = sum.reduce() + rest;
      }
    });
    for (size_t t = 0; t < tiles.size(); ++t)
      for (const auto& [cell, value] : tiles[t].extra) out[cell] += factors[t] * value;
    return out;
  }

 private:
  static constexpr size_t block = 64;

  void check(size_t first, size_t n) const {
    if (first + n > srs_.g1.size()) throw std::logic_error("a polynomial is longer than the SRS");
  }

  // B for one channel of a gemm's source.
  void gemm_row(const Product& p, const EquationVectors& v, const Values& s, size_t c, Fr* out) const {
    const unsigned width_bits = p.contraction_bits.size() == 3 ? p.contraction_bits[2] : 0;
    for (size_t y = 0; y < s.height; ++y)
      for (size_t x = 0; x < s.width; ++x) {
        SignedAccumulator<36> sum;
        for (size_t n = 0; n < s.batch; ++n) sum.add(v.e_b[n], s.row(c, n, y)[x]);
        out[p.contraction_bits.size() == 3 ? (y << width_bits) + x : y * s.width + x] = sum.reduce();
      }
  }

  // B for one channel of a convolution's source: summed along x, then along y and the batch.
  void conv_row(const Equation& e, const Product& p, const EquationVectors& v, const Values& s, size_t c,
                Fr* out) const {
    Secret<Fr> rows(s.height * p.kw);
    for (size_t n = 0; n < s.batch; ++n) {
      for (size_t y = 0; y < s.height; ++y) {
        const int64_t* row = s.row(c, n, y);
        for (size_t kx = 0; kx < p.kw; ++kx) {
          SignedAccumulator<36> sum;
          for (size_t ox = 0; ox < e.ow; ++ox) {
            const int64_t x = int64_t(p.sw * ox + p.dw * kx) - p.pw;
            if (x >= 0 && x < int64_t(s.width)) sum.add(v.bar_X[ox], row[x]);
          }
          rows[y * p.kw + kx] = sum.reduce();
        }
      }
      for (size_t oy = 0; oy < e.oh; ++oy) {
        const Fr weight = v.e_b[n] * v.bar_Y[oy];
        for (size_t ky = 0; ky < p.kh; ++ky) {
          const int64_t y = int64_t(p.sh * oy + p.dh * ky) - p.ph;
          if (y < 0 || y >= int64_t(s.height)) continue;
          for (size_t kx = 0; kx < p.kw; ++kx)
            out[(ky << p.contraction_bits[2]) + kx] += weight * rows[size_t(y) * p.kw + kx];
        }
      }
    }
  }

  const Description& D_;
  const Srs& srs_;
  Threads& threads_;
};

}  // namespace

std::unique_ptr<Backend> cpu_backend(const Description& D, const Srs& srs, Threads& threads) {
  return std::make_unique<CpuBackend>(D, srs, threads);
}

}  // namespace zkserve
