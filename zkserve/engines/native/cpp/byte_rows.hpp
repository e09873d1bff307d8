// Rows of the range proof: one cell of every column, each looked up as a byte (section 16 of
// docs/native-protocol.md).
#pragma once

#include "range.hpp"
#include "rows.hpp"

namespace zkserve {

// Factors of a row: the terms alpha - v of its columns, then its helpers.
class ByteRows : public Rows {
 public:
  // `cells` are the columns, N cells each; `terms` and `inverses` have an entry for each byte. All outlive this.
  ByteRows(const RangeLayout& layout, const int32_t* cells, const Fr* terms, const Fr* inverses, const Fr& eta);

  size_t width() const override { return layout_.columns + layout_.groups3; }
  size_t active() const override { return layout_.tiles.N; }
  void factors(size_t row, Fr* out) const override;
  void helpers(size_t row, Fr* out) const override;
  Secret<Fr> masks(const Fr* R) const override;
  Fr value(const Fr* factors) const override;
  Fr leading(const Fr* slopes) const override;

 private:
  const RangeLayout& layout_;
  const int32_t* cells_;
  const Fr* terms_;
  const Fr* inverses_;
  Fr eta_;
};

}  // namespace zkserve
