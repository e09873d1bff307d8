// Python's view of the verifier and of the checks on a description.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

#include "bytes.hpp"
#include "certificate.hpp"
#include "verifier.hpp"

namespace nb = nanobind;
using namespace zkserve;

namespace {

const uint8_t* data(const nb::bytes& value) { return static_cast<const uint8_t*>(value.data()); }

Digest digest(const nb::bytes& value, const char* name) {
  Digest out;
  std::copy_n(sized(value, out.size(), name), out.size(), out.begin());
  return out;
}

Claim make_claim(unsigned mode, const nb::bytes& weights, const nb::bytes& input, const nb::list& outputs) {
  if (mode > 1) throw std::invalid_argument("there is no such mode");
  Claim claim;
  claim.mode = Mode(mode);
  claim.weights = digest(weights, "the digest of the weights");
  claim.input.assign(data(input), data(input) + input.size());
  for (nb::handle y : outputs) {
    if (!PyLong_CheckExact(y.ptr())) throw std::invalid_argument("an output is not an integer");
    claim.outputs.push_back(nb::cast<int64_t>(y));
  }
  return claim;
}

bool accepts(const nb::bytes& description, const nb::bytes& srs_digest, const nb::bytes& g2_s,
             const std::optional<nb::bytes>& context, unsigned mode, const nb::bytes& weights, const nb::bytes& input,
             const nb::list& outputs, const nb::bytes& proof) {
  try {
    const Claim claim = make_claim(mode, weights, input, outputs);
    const Digest srs = digest(srs_digest, "the digest of the SRS");
    std::optional<Digest> expected;
    if (context) expected = digest(*context, "the context");
    G2Affine secret;
    if (!G2Affine::from_bytes(sized(g2_s, 128, "[s]_2"), secret) || secret.is_infinity()) return false;
    nb::gil_scoped_release release;
    const Description D = parse_description(data(description), description.size());
    return verify(D, srs, secret, expected ? &*expected : nullptr, claim, data(proof), proof.size());
  } catch (const std::exception&) {
    return false;  // whatever goes wrong, nothing has been proven
  }
}

}  // namespace

void bind_verifier(nb::module_& module) {
  module.def("verify", &accepts, nb::arg("description"), nb::arg("srs_digest"), nb::arg("g2_s"),
             nb::arg("context").none(), nb::arg("mode"), nb::arg("weights"), nb::arg("input"), nb::arg("outputs"),
             nb::arg("proof"),
             "Whether a proof shows a claim: mode 0 has a public input, mode 1 a hidden one; with a context of None\n"
             "a proof for any context is accepted. False for whatever is wrong, malformed arguments too.");
  module.def(
      "check_description",
      [](const nb::bytes& description) {
        nb::gil_scoped_release release;
        parse_description(data(description), description.size());
      },
      nb::arg("description"),
      "Raise ValueError for a description that the protocol forbids; the rank certificate is not checked here.");
  module.def(
      "certify",
      [](const nb::bytes& description, unsigned threads) {
        Digest out;
        {
          nb::gil_scoped_release release;
          Threads pool(threads);
          out = certify(parse_description(data(description), description.size()), pool);
        }
        return to_bytes(out.data(), out.size());
      },
      nb::arg("description"), nb::arg("threads") = 1,
      "The certificate digest of a description, whatever it carries; ValueError if its masks do not hide a proof.");
  module.def(
      "check_certificate",
      [](const nb::bytes& description, const std::optional<std::vector<uint32_t>>& multipliers, unsigned threads) {
        nb::gil_scoped_release release;
        Threads pool(threads);
        const Description D = parse_description(data(description), description.size());
        check_certificate(D, multipliers ? &*multipliers : nullptr, pool);
      },
      nb::arg("description"), nb::arg("multipliers").none() = nb::none(), nb::arg("threads") = 1,
      "ValueError unless a description's masks hide a proof, also with a version's own multipliers if given, and it\n"
      "carries the digest of that.");
}
