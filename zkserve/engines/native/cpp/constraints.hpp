// The public table and the row constraints at a point (sections 8 and 11 of docs/native-protocol.md).
#pragma once

#include "challenges.hpp"
#include "description.hpp"
#include "factors.hpp"

namespace zkserve {

Fr kinds_at(const Description& D, const Vector& row_point);                      // K(r)
Fr table_at(const Description& D, const Vector& table_point, const Fr& lambda);  // T(r)
// rows(E): `values` are the columns, then the helpers; `kind` is K at the point.
Fr rows_at(const Description& D, const Fr* values, const Fr& kind, const Challenges& c);

}  // namespace zkserve
