// Python's view of the prover.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "bytes.hpp"
#include "prover.hpp"

namespace nb = nanobind;
using namespace zkserve;

namespace {

using Integers = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;

const uint8_t* data(const nb::bytes& value) { return static_cast<const uint8_t*>(value.data()); }

Fr scalar(const uint8_t* word) {
  Fr out;
  if (!Fr::from_bytes(word, out)) throw std::invalid_argument("a blind is not a canonical scalar");
  return out;
}

Secret<Fr> read_blinds(const nb::bytes& bytes) {
  if (bytes.size() % 32) throw std::invalid_argument("blinds have 32 bytes each");
  Secret<Fr> out;
  for (size_t at = 0; at < bytes.size(); at += 32) out.push_back(scalar(data(bytes) + at));
  return out;
}

Mode read_mode(unsigned mode) {
  if (mode > 1) throw std::invalid_argument("there is no such mode");
  return Mode(mode);
}

// Python's callbacks, called with the GIL that the proof itself does without.
Control control(const nb::object& progress, const nb::object& cancelled) {
  Control out;
  if (!progress.is_none())
    out.progress = [&progress](const char* phase) {
      nb::gil_scoped_acquire acquire;
      progress(phase);
    };
  if (!cancelled.is_none())
    out.cancelled = [&cancelled] {
      nb::gil_scoped_acquire acquire;
      return nb::cast<bool>(cancelled());
    };
  return out;
}

nb::bytes commit(const Srs& srs, const nb::bytes& description, const Integers& cells, const nb::bytes& blinds,
                 unsigned threads) {
  const Secret<Fr> scalars = read_blinds(blinds);
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release release;
    const Description D = parse_description(data(description), description.size());
    if (cells.size() != size_t(D.nW) << D.k)
      throw Refused("there are not as many weight cells as the description has");
    if (scalars.size() != D.nW) throw Refused("there are not as many blinds as tiles of weights");
    Threads pool(threads);
    out = commit_weights(D, *cpu_backend(D, srs, pool), cells.data(), scalars);
  }
  return to_bytes(out.data(), out.size());
}

using Result = std::tuple<nb::bytes, std::vector<int64_t>, nb::bytes>;

Result prove(Prover& prover, const nb::bytes& context, const Integers& inputs,
             const std::optional<nb::bytes>& input_blind, const nb::bytes& owner_key, const nb::object& progress,
             const nb::object& cancelled) {
  Digest where;
  std::copy_n(sized(context, where.size(), "the context"), where.size(), where.begin());
  std::optional<Fr> blind;
  const Wiping blind_wiped(blind);
  if (input_blind) blind = scalar(sized(*input_blind, 32, "the blind of the input"));
  const Secret<uint8_t> key(data(owner_key), data(owner_key) + owner_key.size());
  const Control callbacks = control(progress, cancelled);
  Proof proof;
  {
    nb::gil_scoped_release release;
    proof = prover.prove(where, inputs.data(), inputs.size(), blind, key, callbacks);
  }
  return {to_bytes(proof.input.data(), proof.input.size()), std::move(proof.outputs),
          to_bytes(proof.bytes.data(), proof.bytes.size())};
}

nb::bytes prove_range(Prover& prover, unsigned weight_bytes, const nb::bytes& owner_key, const nb::object& progress,
                      const nb::object& cancelled) {
  const Secret<uint8_t> key(data(owner_key), data(owner_key) + owner_key.size());
  const Control callbacks = control(progress, cancelled);
  std::vector<uint8_t> proof;
  {
    nb::gil_scoped_release release;
    proof = prover.prove_range(weight_bytes, key, callbacks);
  }
  return to_bytes(proof.data(), proof.size());
}

}  // namespace

#ifdef ZKSERVE_CHEATING_PROVER
void bind_attack(nb::module_& module);
#endif

void bind_prover(nb::module_& module) {
  nb::exception<Cancelled>(module, "Cancelled");
  module.def("commit_weights", &commit, nb::arg("srs"), nb::arg("description"), nb::arg("cells"), nb::arg("blinds"),
             nb::arg("threads") = 1,
             "C_W, 64 bytes a tile, of nW * 2^k int32 cells and a blind of 32 bytes for each tile.");
  nb::class_<Prover>(module, "Prover", "Proves predictions of one version, one at a time.")
      .def(
          "__init__",
          [](Prover* self, const Srs& srs, const nb::bytes& description, unsigned mode, const Integers& cells,
             const nb::bytes& blinds, std::vector<uint32_t> multipliers, unsigned threads) {
            const Mode input_mode = read_mode(mode);
            Secret<Fr> scalars = read_blinds(blinds);
            nb::gil_scoped_release release;
            new (self) Prover(srs, parse_description(data(description), description.size()), input_mode, cells.data(),
                              cells.size(), std::move(scalars), std::move(multipliers), threads);
          },
          nb::arg("srs"), nb::arg("description"), nb::arg("mode"), nb::arg("cells"), nb::arg("blinds"),
          nb::arg("multipliers"), nb::arg("threads") = 1, nb::keep_alive<1, 2>(),
          "Load a version; ValueError if its layout does not hide a proof or a bound of its integers fails.")
      .def_prop_ro("commitments",
                   [](const Prover& p) {
                     const auto& bytes = p.version().commitments;
                     return to_bytes(bytes.data(), bytes.size());
                   })
      .def_prop_ro("weights",
                   [](const Prover& p) {
                     const Digest digest = p.weights();
                     return to_bytes(digest.data(), digest.size());
                   })
      .def(
          "predict",
          [](Prover& p, const Integers& inputs) {
            nb::gil_scoped_release release;
            return p.predict(inputs.data(), inputs.size());
          },
          nb::arg("inputs"), "The outputs of a batch (batch, C, H, W) of integers.")
      .def(
          "commit_input",
          [](Prover& p, const Integers& inputs, const nb::bytes& blind) {
            Fr value = scalar(sized(blind, 32, "the blind of the input"));
            const Wiping value_wiped(value);
            uint8_t bytes[64];
            {
              nb::gil_scoped_release release;
              p.commit_input(inputs.data(), inputs.size(), value).to_bytes(bytes);
            }
            return to_bytes(bytes, sizeof bytes);
          },
          nb::arg("inputs"), nb::arg("blind"), "C_X, 64 bytes.")
      .def("prove_range", &prove_range, nb::arg("weight_bytes"), nb::arg("owner_key"),
           nb::arg("progress").none() = nb::none(), nb::arg("cancelled").none() = nb::none(),
           "The proof for a registration that the weights are integers of so many bytes and can overflow nothing.")
      .def("prove", &prove, nb::arg("context"), nb::arg("inputs"), nb::arg("input_blind").none(),
           nb::arg("owner_key"), nb::arg("progress").none() = nb::none(), nb::arg("cancelled").none() = nb::none(),
           "(input, outputs, proof) of a batch, verified. `progress` is told each phase as it begins; Cancelled is\n"
           "raised soon after `cancelled` returns true.");
#ifdef ZKSERVE_CHEATING_PROVER
  bind_attack(module);
#endif
}
