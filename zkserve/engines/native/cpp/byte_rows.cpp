#include "byte_rows.hpp"

#include <algorithm>

namespace zkserve {

ByteRows::ByteRows(const RangeLayout& layout, const int32_t* cells, const Fr* terms, const Fr* inverses,
                   const Fr& eta)
    : layout_(layout), cells_(cells), terms_(terms), inverses_(inverses), eta_(eta) {}

void ByteRows::helpers(size_t row, Fr* out) const {
  for (uint32_t g = 0; g < layout_.groups3; ++g) {
    out[g] = Fr::zero();
    for (uint32_t i = 3 * g; i < std::min(3 * g + 3, layout_.columns); ++i)
      out[g] += inverses_[cells_[i * layout_.tiles.N + row]];
  }
}

void ByteRows::factors(size_t row, Fr* out) const {
  for (uint32_t i = 0; i < layout_.columns; ++i) out[i] = terms_[cells_[i * layout_.tiles.N + row]];
  helpers(row, out + layout_.columns);
}

Secret<Fr> ByteRows::masks(const Fr* R) const {
  Secret<Fr> out(R, R + width());
  for (uint32_t i = 0; i < layout_.columns; ++i) out[i] = -out[i];
  return out;
}

Fr ByteRows::value(const Fr* f) const {
  const Fr* helpers = f + layout_.columns;
  Fr sum = Fr::zero();
  for (uint32_t g = layout_.groups3; g-- > 0;) {
    const Fr* t = f + 3 * g;
    const uint32_t count = std::min(3U, layout_.columns - 3 * g);
    Fr product = t[0], others = Fr::one();
    for (uint32_t i = 1; i < count; ++i) {
      others = others * t[i] + product;
      product *= t[i];
    }
    sum = sum * eta_ + (helpers[g] * product - others);
  }
  return sum;
}

Fr ByteRows::leading(const Fr* f) const {
  Fr sum = Fr::zero();
  for (uint32_t g = layout_.groups3; g-- > 0;) {
    sum *= eta_;
    const Fr* t = f + 3 * g;
    if (3 * g + 2 < layout_.columns) sum += t[0] * t[1] * (t[2] * f[layout_.columns + g]);
  }
  return sum;
}

}  // namespace zkserve
