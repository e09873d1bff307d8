// Python's view of the registration range proof.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>

#include "bytes.hpp"
#include "range.hpp"

namespace nb = nanobind;
using namespace zkserve;

namespace {

const uint8_t* data(const nb::bytes& value) { return static_cast<const uint8_t*>(value.data()); }

Digest digest(const nb::bytes& value, const char* name) {
  Digest out;
  std::copy_n(sized(value, out.size(), name), out.size(), out.begin());
  return out;
}

bool accepts(const nb::bytes& description, unsigned weight_bytes, const nb::bytes& srs_digest, const nb::bytes& g2_s,
             const nb::bytes& weights, const nb::bytes& proof) {
  try {
    const Digest srs = digest(srs_digest, "the digest of the SRS");
    const Digest committed = digest(weights, "the digest of the weights");
    G2Affine secret;
    if (!G2Affine::from_bytes(sized(g2_s, 128, "[s]_2"), secret) || secret.is_infinity()) return false;
    nb::gil_scoped_release release;
    const Description D = parse_description(data(description), description.size());
    return verify_range(D, weight_bytes, srs, secret, committed, {data(proof), data(proof) + proof.size()});
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

void bind_registration(nb::module_& module) {
  module.def("verify_range", &accepts, nb::arg("description"), nb::arg("weight_bytes"), nb::arg("srs_digest"),
             nb::arg("g2_s"), nb::arg("weights"), nb::arg("proof"),
             "Whether a range proof shows that the committed weights are integers of `weight_bytes` bytes, biases of\n"
             "8, and that no accumulator can leave its range. False for whatever is wrong.");
}
