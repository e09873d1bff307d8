#include "commitments.hpp"

#include <algorithm>

#include "witness.hpp"

namespace zkserve {
namespace {

// Rows of the pieces of tensors, marked.
void mark(const Tensor& t, std::vector<bool>& rows) {
  for (const Piece& p : t.pieces)
    std::fill_n(rows.begin() + ptrdiff_t(p.offset), size_t(1) << (p.log + t.block_bits), true);
}

}  // namespace

Commitments::Commitments(const Description& D, Backend& backend)
    : D_(D), backend_(backend), active_(active_rows(D)), bytes_(D.nw), words_(D.nw), counts_(D.nw) {
  const size_t rows = size_t(1) << D.nr;
  std::vector<bool> input(rows), activation(rows), pooled(rows);
  mark(D.tensors[0], input);
  for (size_t t = 1; t < D.tensors.size(); ++t) mark(D.tensors[t], activation);
  for (const Equation& e : D.equations)
    if (e.pooled) mark(D.tensors[e.target], pooled);
  for (unsigned c = 0; c < D.columns; ++c) {
    const std::vector<bool>& used = c <= D.y() ? activation : c < D.d(0, 0) ? input : pooled;
    auto& lists = c == D.y() && D.A > 1 ? words_ : bytes_;
    for (size_t row = 0; row < rows; ++row)
      if (used[row]) lists[((c << D.nr) + row) >> D.k].push_back(uint32_t(((c << D.nr) + row) & (D.N - 1)));
  }
  for (size_t entry = 0; entry < size_t(1) << D.kt; ++entry)
    counts_[D.moff >> D.k].push_back(uint32_t((D.moff + entry) & (D.N - 1)));

  for (unsigned g = 0; g < D.groups3; ++g) {
    const std::vector<int32_t> ones(rows - active_, 1);
    const size_t first = (D.hoff + (size_t(g) << D.nr) + active_) & (D.N - 1);
    G1 sum;
    if (!ones.empty()) sum = backend_.commit_small(first, ones.data(), ones.size());
    blank_rows_.push_back(sum.to_affine());
  }
}

G1 Commitments::fresh(size_t t, const Witness& witness, const std::vector<uint64_t>& masks, const Secret<Fr>& values,
                      const Fr& blind) const {
  G1 sum;
  for (const auto* lists : {&bytes_, &words_, &counts_}) {
    const std::vector<uint32_t>& powers = (*lists)[t];
    if (powers.empty()) continue;
    Secret<int32_t> cells(powers.size());
    for (size_t i = 0; i < powers.size(); ++i) cells[i] = witness.cells[(t << D_.k) + powers[i]];
    sum += backend_.commit_small(powers, cells.data());
  }
  Secret<G1Affine> points = {backend_.power(D_.N)};
  Secret<Fr> scalars = {blind};
  for (size_t i = 0; i < masks.size(); ++i) {
    if (masks[i] >> D_.k != t) continue;
    points.push_back(backend_.power(masks[i] & (D_.N - 1)));
    scalars.push_back(values[i]);
  }
  return sum += backend_.sum(points, scalars);
}

G1 Commitments::helpers(size_t t, const Witness& witness, const Secret<Fr>& cells, const Secret<Fr>& inverses,
                        const Fr* blinds) const {
  const size_t entries = 512 + 256 * D_.functions.size(), table = D_.hT & (D_.N - 1);
  const bool has_table = D_.hT >> D_.k == t;
  Secret<G1Affine> points;
  Secret<Fr> scalars;
  auto add = [&](uint64_t cell, const Fr& value) {
    points.push_back(backend_.power(cell & (D_.N - 1)));
    scalars.push_back(value);
  };

  // Each entry begins with the power of its table helper, so that none is empty; it is taken off below.
  std::vector<uint32_t> powers;
  Secret<uint32_t> owners;
  for (size_t entry = 0; entry < entries; ++entry) {
    powers.push_back(uint32_t(table + entry));
    owners.push_back(uint32_t(entry));
  }
  // Lookups of one helper stand far apart: a sum of equal points is slow.
  for (unsigned place = 0; place < 3; ++place)
    for (unsigned g = 0; 3 * g + place < D_.lookups; ++g) {
      const uint64_t column = D_.hoff + (uint64_t(g) << D_.nr);
      if (column >> D_.k != t) continue;
      for (size_t row = 0; row < active_; ++row) {
        powers.push_back(uint32_t((column & (D_.N - 1)) + row));
        owners.push_back(witness.lookups[row * D_.lookups + 3 * g + place]);
      }
    }
  const Secret<G1Affine> sums = backend_.group_sums(powers, owners, entries);
  for (size_t entry = 0; entry < entries; ++entry) {
    points.push_back(sums[entry]);
    scalars.push_back(inverses[entry]);
  }
  for (size_t entry = 0; entry < entries; ++entry)
    add(table + entry, (has_table ? cells[D_.hT + entry] : Fr::zero()) - inverses[entry]);

  for (unsigned g = 0; g < D_.groups3; ++g) {
    const uint64_t column = D_.hoff + (uint64_t(g) << D_.nr);
    if (column >> D_.k != t || blank_rows_[g].is_infinity()) continue;
    points.push_back(blank_rows_[g]);
    scalars.push_back(cells[column + active_]);
  }
  for (uint64_t cell = D_.roff; cell < D_.roff + D_.nE; ++cell)
    if (cell >> D_.k == t) add(cell, cells[cell]);
  for (uint64_t cell = D_.goff; cell <= D_.goff + D_.degree_sum; ++cell)
    if (cell >> D_.k == t) add(cell, cells[cell]);
  for (uint64_t cell : D_.h_masks)
    if (cell >> D_.k == t) add(cell, cells[cell]);
  for (size_t i = 0; i < D_.h_blinds; ++i) {
    points.push_back(backend_.power(D_.N + i));
    scalars.push_back(blinds[i]);
  }
  return backend_.sum(points, scalars);
}

}  // namespace zkserve
