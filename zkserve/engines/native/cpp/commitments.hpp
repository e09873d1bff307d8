// Commitments to the fresh tiles of a proof, by the cells that its layout uses.
//
// Which cells a layout uses is public. All of them are summed alike, whatever they hold.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.hpp"

namespace zkserve {

// What follows from the description alone.
class Commitments {
 public:
  Commitments(const Description& D, Backend& backend);

  // Tile t of family w: the witness' cells, masks by cell of the tile, and a blind.
  G1 fresh(size_t t, const Witness& witness, const std::vector<uint64_t>& masks, const Secret<Fr>& values,
           const Fr& blind) const;

  // Tile t of family h. Helpers are sums of few different inverses, so one addition for each lookup replaces a
  // scalar multiplication for each helper: points are summed by the table entry they are looked up at.
  // `cells` is the whole family, `inverses` those of the table's terms.
  G1 helpers(size_t t, const Witness& witness, const Secret<Fr>& cells, const Secret<Fr>& inverses,
             const Fr* blinds) const;

 private:
  const Description& D_;
  Backend& backend_;
  size_t active_;
  // Cells of each tile of family w, by the width of what they hold.
  std::vector<std::vector<uint32_t>> bytes_, words_, counts_;
  std::vector<G1Affine> blank_rows_;  // for each helper column: the sum of its powers from row `active_` on
};

}  // namespace zkserve
