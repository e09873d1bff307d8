#include "masking.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace zkserve {
namespace {

// A term that is one eq vector over its whole tile: folding it needs no cells.
struct WholeTile {
  const Fr* point;
  Fr coefficient;
};

// L of one tile, folded variable by variable.
class TileFunctional {
 public:
  TileFunctional(const Description& D, const std::vector<const Term*>& terms) : k_(D.k), half_(D.N), cells_(D.N, Fr::zero()) {
    std::map<std::tuple<const Vector*, size_t, uint64_t, unsigned>, Vector> known;
    for (const Term* term : terms) {
      const Factor& first = term->factors[0];
      if (first.kind == Factor::Kind::eq && first.bits == k_ && first.count >> k_) {
        whole_.push_back({first.values->data() + first.begin, term->coefficient});
        continue;
      }
      Vector high = {term->coefficient};
      const Vector* low = nullptr;
      for (const Factor& f : term->factors) {
        if (low) {
          Vector product;
          product.reserve(high.size() * low->size());
          for (const Fr& a : high)
            for (const Fr& b : *low) product.push_back(a * b);
          high = std::move(product);
        }
        Vector& entries = known[std::make_tuple(f.values.get(), f.begin, f.count, unsigned(f.kind))];
        if (entries.empty()) entries = expand(f);
        low = &entries;
      }
      Fr* at = cells_.data() + (term->offset & (D.N - 1));
      for (const Fr& a : high) {
        if (!a.is_zero())
          for (size_t i = 0; i < low->size(); ++i) at[i] += a * (*low)[i];
        at += low->size();
      }
      extent_ = std::max<size_t>(extent_, at - cells_.data());
    }
  }

  // Entries of the two halves at a cell that agrees with `cell` in the variables not bound yet.
  std::pair<Fr, Fr> halves(uint64_t cell) const {
    const size_t h = half_ / 2, at = cell & (h - 1);
    Fr low = cells_[at], high = cells_[at + h];
    for (const WholeTile& w : whole_) {
      Fr rest = w.coefficient;
      for (unsigned i = bound_ + 1; i < k_; ++i) rest *= (at >> (k_ - 1 - i)) & 1 ? w.point[i] : Fr::one() - w.point[i];
      const Fr upper = rest * w.point[bound_];
      high += upper;
      low += rest - upper;
    }
    return {low, high};
  }
  void bind(const Fr& rho) {
    const size_t h = half_ / 2;
    for (size_t i = 0; i < std::min(extent_, h); ++i) cells_[i] += rho * (cells_[i + h] - cells_[i]);
    extent_ = std::min(extent_, h);
    half_ = h;
    for (WholeTile& w : whole_) w.coefficient *= eqv(w.point + bound_, &rho, 1);
    ++bound_;
  }
  // L(rho), once all variables are bound.
  Fr value() const {
    Fr out = cells_[0];
    for (const WholeTile& w : whole_) out += w.coefficient;
    return out;
  }

 private:
  unsigned k_, bound_ = 0;
  size_t half_;        // cells at this round
  size_t extent_ = 0;  // cells from here on are zero
  Vector cells_;
  std::vector<WholeTile> whole_;
};

// The opening of section 10 on a single monomial.
class OpeningRow {
 public:
  OpeningRow(const Description& D, const MaskPoint& x)
      : low_bits_(D.k / 2), high_bits_(D.k - D.k / 2), s_(x.s), zeta_(x.zeta), inverse_(x.zeta.inverse()) {
    low_ = eq_vector(x.rho.data() + high_bits_, low_bits_);
    Q_ = eq_vector(x.rho.data(), high_bits_);
    Q_.push_back(Fr::zero());
    Fr power = Fr::one();
    for (Fr& q : Q_) {
      theta_.push_back(power);
      q = x.gamma * q - power;
      power *= x.theta;
    }
    for (const Fr& at : {s_, zeta_}) {
      low_sums_.push_back(neighbours(low_, at));
      Q_sums_.push_back(neighbours(Q_, at));
    }
    divisor_ = (s_.pow(uint64_t(1) << low_bits_) - x.theta).inverse();
  }

  static constexpr size_t columns = 9;

  // For f = l * X^index: h, g, S, q* at s, then g, g', h, h', S at zeta and its inverse.
  void append(uint64_t index, const Fr& l, Vector& row) const {
    const uint64_t b = uint64_t(1) << low_bits_, i = index & (b - 1), j = index >> low_bits_;
    const Fr g = theta_[j] * l, h = low_[i] * l;
    const auto S = [&](size_t at) { return g * low_sums_[at][i] + h * Q_sums_[at][j]; };
    const Fr gs = g * s_.pow(i);
    row.push_back(h * s_.pow(j));
    row.push_back(gs);
    row.push_back(S(0));
    row.push_back((l * s_.pow(index) - gs) * divisor_ + g * s_.pow(b - 1 - i));
    row.push_back(g * zeta_.pow(i));
    row.push_back(g * inverse_.pow(i));
    row.push_back(h * zeta_.pow(j));
    row.push_back(h * inverse_.pow(j));
    row.push_back(S(1));
  }

 private:
  // For each i: sum over m != i of v[m] x^(|i - m| - 1).
  static Vector neighbours(const Vector& v, const Fr& x) {
    Vector out(v.size(), Fr::zero());
    Fr before = Fr::zero(), after = Fr::zero();
    for (size_t i = 1; i < v.size(); ++i) {
      before = before * x + v[i - 1];
      out[i] += before;
      after = after * x + v[v.size() - i];
      out[v.size() - 1 - i] += after;
    }
    return out;
  }

  unsigned low_bits_, high_bits_;
  Fr s_, zeta_, inverse_, divisor_;
  Vector low_, Q_, theta_;
  std::vector<Vector> low_sums_, Q_sums_;
};

// One row per coordinate: mask cells of h, mask cells of w, then blinds.
std::vector<Vector> matrix(const Description& D, const std::vector<Term>& terms, const MaskPoint& x) {
  const Vector chi_w = rotated(x.chi);
  const OpeningRow opening(D, x);
  const size_t tiles = size_t(D.nw) + D.nh, blinds_from = D.h_masks.size() + D.w_masks.size();
  std::vector<Vector> rows(blinds_from);
  for (bool helper : {false, true}) {
    const std::vector<uint64_t>& masks = helper ? D.h_masks : D.w_masks;
    const size_t first_row = helper ? 0 : D.h_masks.size(), first_column = helper ? D.nw : 0;
    for (uint64_t t = 0; t < (helper ? D.nh : D.nw); ++t) {
      std::vector<const Term*> own;
      for (const Term& term : terms)
        if (term.family == (helper ? Family::helper : Family::fresh) && term.offset >> D.k == t) own.push_back(&term);
      TileFunctional L(D, own);
      const auto begin_row = [&](uint64_t index, const Fr& mask) {
        Vector row(tiles, Fr::zero());
        row[first_column + t] = x.s.pow(index);
        row.push_back(mask);
        return row;
      };

      struct Cell {
        uint64_t index;
        Vector* row;
        Fr bound;  // eq of the variables bound so far
      };
      std::vector<Cell> cells;
      for (size_t i = 0; i < masks.size(); ++i) {
        if (masks[i] >> D.k != t) continue;
        const uint64_t index = masks[i] & (D.N - 1);
        const auto eq = [&](const Vector& u) {
          Fr out = Fr::one();
          for (unsigned j = 0; j < D.k; ++j) out *= (index >> (D.k - 1 - j)) & 1 ? u[j] : Fr::one() - u[j];
          return out;
        };
        Fr mask = Fr::zero();
        if (helper)
          mask = (Fr::one() + Fr::from_u64(t) * x.chi_x) * eq(x.chi);
        else if (t + 1 == D.nw)
          mask = x.chi_x.square() * eq(chi_w);
        rows[first_row + i] = begin_row(index, mask);
        cells.push_back({index, &rows[first_row + i], Fr::one()});
      }
      for (unsigned j = 0; j < D.k; ++j) {
        for (Cell& cell : cells) {
          const auto [low, high] = L.halves(cell.index);
          const Fr difference = (high - low) * cell.bound;
          const bool upper = (cell.index >> (D.k - 1 - j)) & 1;
          cell.row->push_back(upper ? Fr::zero() : low * cell.bound);
          cell.row->push_back(upper ? difference : -difference);
          cell.bound *= upper ? x.rho[j] : Fr::one() - x.rho[j];
        }
        L.bind(x.rho[j]);
      }
      for (const Cell& cell : cells) opening.append(cell.index, L.value(), *cell.row);
      for (unsigned i = 0; i < (helper ? Description::h_blinds : 1); ++i) {
        rows.push_back(begin_row(D.N + i, Fr::zero()));
        rows.back().resize(tiles + 1 + 2 * D.k, Fr::zero());
        opening.append(D.N + i, L.value(), rows.back());
      }
    }
  }
  return rows;
}

// The rank of a matrix given by rows; `margin` is whether it stays when any of the first `h` rows is deleted
// together with any of the next `w`.
Rank measure(const std::vector<Vector>& rows, size_t h, size_t w, Sampler& from, bool& margin) {
  const size_t n = rows.size(), columns = rows[0].size();
  // Reduced row echelon form of the transpose; its null space is the matrix's left kernel.
  std::vector<Vector> m(columns, Vector(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < columns; ++j) m[j][i] = rows[i][j];
  std::vector<size_t> pivots;
  for (size_t at = 0; at < n && pivots.size() < columns; ++at) {
    const size_t rank = pivots.size();
    size_t pivot = rank;
    while (pivot < columns && m[pivot][at].is_zero()) ++pivot;
    if (pivot == columns) continue;
    std::swap(m[rank], m[pivot]);
    const Fr inverse = m[rank][at].inverse();
    for (size_t i = at; i < n; ++i) m[rank][i] *= inverse;
    for (size_t j = 0; j < columns; ++j) {
      const Fr factor = m[j][at];
      if (j == rank || factor.is_zero()) continue;
      for (size_t i = at; i < n; ++i) m[j][i] -= factor * m[rank][i];
    }
    pivots.push_back(at);
  }

  // Deleting two rows keeps the rank if and only if the kernel restricted to them has rank 2. Two random
  // elements of the kernel show that for all pairs at once, and never show it where it is not so.
  Vector kernel[2];
  for (Vector& v : kernel) {
    v = from.next(n);
    for (size_t p : pivots) v[p] = Fr::zero();
    for (size_t j = 0; j < pivots.size(); ++j) {
      Fr bound = Fr::zero();
      for (size_t i = pivots[j] + 1; i < n; ++i)
        if (!std::binary_search(pivots.begin(), pivots.end(), i)) bound += m[j][i] * v[i];
      v[pivots[j]] = -bound;
    }
  }
  margin = true;
  for (size_t i = 0; i < h; ++i)
    for (size_t j = h; j < h + w; ++j)
      margin = margin && kernel[0][i] * kernel[1][j] != kernel[0][j] * kernel[1][i];
  return {pivots.size(), columns, n};
}

}  // namespace

Rank masking_rank(const Description& D, const std::vector<Term>& terms, const MaskPoint& x, Sampler& from) {
  bool margin;
  const Rank out = measure(matrix(D, terms, x), D.h_masks.size(), D.w_masks.size(), from, margin);
  if (out.rank != out.columns)
    throw Refused("masks and blinds of this layout do not hide a proof: rank " + std::to_string(out.rank) + " for " +
                  std::to_string(out.columns) + " revealed values");
  if (!margin) throw Refused("masks of this layout hide a proof without margin");
  return out;
}

}  // namespace zkserve
