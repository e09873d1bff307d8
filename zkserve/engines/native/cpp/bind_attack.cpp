// A prover that lies, for the tests of verifiers: only in the extension of the build option ZKSERVE_TEST_CORE.
//
// It proves whatever witness it is given and stays consistent after the lie: multiplicities, helpers, tables and
// sums are those of the altered cells, so that a verifier can object to nothing but the lie itself.
#ifdef ZKSERVE_CHEATING_PROVER

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

#include "bytes.hpp"
#include "prover.hpp"

namespace nb = nanobind;
using namespace zkserve;

namespace {

using Integers = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;

// A lookup that meets no table entry: v + lambda kind + lambda^2 a + lambda^3 b.
struct Stray {
  int64_t v, kind, a, b;
};

// A witness whose cells are anything, with the lookups that follow from them.
struct Lie {
  Witness witness;
  std::vector<Stray> strays;  // table entries from 2^kt on

  void look_up(const Description& D) {
    const std::vector<uint16_t> functions = row_functions(D);
    const size_t active = active_rows(D), columns = D.range_columns.size();
    auto cell = [&](unsigned column, size_t row) { return int64_t(witness.cells[(size_t(column) << D.nr) + row]); };
    strays.clear();
    auto stray = [&](const Stray& s) {
      strays.push_back(s);
      return uint32_t((size_t(1) << D.kt) + strays.size() - 1);
    };
    for (size_t row = 0; row < active; ++row) {
      uint32_t* entries = &witness.lookups[row * D.lookups];
      for (size_t i = 0; i < columns; ++i) {
        const int64_t v = cell(D.range_columns[i], row);
        entries[i] = v >= 0 && v < 256 ? uint32_t(v) : stray({v, 0, 0, 0});
      }
      const int64_t hi = cell(D.hi(), row), sel = cell(D.sel(), row), sat = cell(D.sat(), row);
      entries[columns] = hi >= 0 && hi < 256 && sel == (hi == 128) && sat == (hi > 128) ? 256 + uint32_t(hi)
                                                                                       : stray({hi, 1, sel, sat});
      if (functions.empty()) continue;
      const int64_t z = cell(D.z(), row), y = cell(D.y(), row);
      entries[columns + 1] = z >= 0 && z < 256 && y == D.functions[functions[row]][size_t(z)]
                                 ? 512 + 256 * functions[row] + uint32_t(z)
                                 : stray({z, 2 + functions[row], y, 0});
    }
  }

  // Counts what the table has; the rest stays without a counterpart.
  void count(const Description& D) {
    const size_t size = size_t(1) << D.kt, active = active_rows(D) * D.lookups;
    int32_t* counts = &witness.cells[D.moff];
    std::fill_n(counts, size, 0);
    const int32_t blank = int32_t((size_t(1) << D.nr) - active_rows(D));
    for (size_t i = 0; i < witness.lookups.size(); ++i)
      if (witness.lookups[i] < size) counts[witness.lookups[i]] += i < active ? 1 : blank;
  }
};

class CheatingAttempt : public Attempt {
 public:
  template <class... Arguments>
  CheatingAttempt(const Lie& lie, const std::optional<Fr>& mask, Arguments&... arguments)
      : Attempt(arguments...), lie_(lie), mask_(mask) {}

 protected:
  Secret<Fr> lookup_terms() const override {
    Secret<Fr> out = Attempt::lookup_terms();
    const Fr &alpha = challenges_.alpha, &lambda = challenges_.lambda;
    for (const Stray& s : lie_.strays)
      out.push_back(alpha - (Fr::from_i64(s.v) + lambda * (Fr::from_i64(s.kind) + lambda * (Fr::from_i64(s.a) +
                                                           lambda * Fr::from_i64(s.b)))));
    return out;
  }
  Fr row_sum(const Rows& rows) const override {
    const Vector weights = eq_vector(challenges_.tau.data(), D_.nr);
    Secret<Fr> factors(rows.width());
    Fr sum = Fr::zero();
    for (size_t row = 0; row < weights.size(); ++row) {
      rows.factors(row, factors.data());
      sum += weights[row] * rows.value(factors.data());
    }
    return sum;
  }
  // By every cell of a tile, since a lie may lie anywhere.
  G1 fresh_commitment(size_t t) const override {
    Secret<Fr> cells(D_.N + 1, Fr::zero());
    for (size_t i = 0; i < D_.N; ++i) cells[i] = Fr::from_i64(witness_.cells[t * D_.N + i]);
    for (size_t i = 0; i < D_.w_masks.size(); ++i)
      if (D_.w_masks[i] / D_.N == t) cells[D_.w_masks[i] % D_.N] += fresh_masks_[i];
    cells[D_.N] = fresh_blinds_[t];
    return backend_.commit(0, cells.data(), cells.size());
  }
  G1 helper_commitment(size_t t) const override {
    G1 sum = backend_.commit(0, &helpers_[t * D_.N], D_.N);
    return sum += backend_.commit(D_.N, &helper_blinds_[t * D_.h_blinds], D_.h_blinds);
  }
  Fr draw() override { return mask_ ? *mask_ : Attempt::draw(); }

 private:
  const Lie& lie_;
  const std::optional<Fr>& mask_;
};

class CheatingProver : public Prover {
 public:
  using Prover::Prover;

  Lie witness(const int32_t* inputs, size_t count) { return {network_->run(inputs, count, threads_), {}}; }

  // `cells`: weights that take the place of the committed ones. `mask`: the value of every blind and mask.
  Proof cheat(const Digest& context, Lie& lie, const int32_t* inputs, size_t count, const Fr& input_blind,
              const std::optional<std::vector<int32_t>>& cells, const std::optional<Fr>& mask, bool recount) {
    const Description& D = version_.D;
    lie.look_up(D);
    if (recount) lie.count(D);
    Statement statement{context, mode_, srs_.digest, weights(), {}, lie.witness.outputs, version_.multipliers};
    Secret<int32_t> tile;
    uint8_t commitment[64] = {};
    if (mode_ == Mode::hidden_input) {
      commit_input(inputs, count, input_blind).to_bytes(commitment);
      tile = input_tile(inputs, count);
      const Digest digest = hidden_input_digest(commitment);
      statement.input.assign(digest.begin(), digest.end());
    } else {
      statement.input = pack_input(D, inputs);
    }
    const Secret<int32_t> committed = version_.cells;
    if (cells) version_.cells.assign(cells->begin(), cells->end());
    Random random({}, statement.input, 0);
    const Control control;
    const Fr blind = input_blind;
    Proof proof{statement.input, statement.outputs, prefix(statement, commitment)};
    CheatingAttempt attempt(lie, mask, version_, *commitments_, *backend_, threads_, statement, lie.witness, tile,
                            blind, random, control);
    const std::vector<uint8_t> rest = attempt.run();
    version_.cells = committed;
    proof.bytes.insert(proof.bytes.end(), rest.begin(), rest.end());
    return proof;
  }
};

}  // namespace

void bind_attack(nb::module_& module) {
  nb::class_<Lie>(module, "Witness", "Cells of family w and outputs, to be altered.")
      .def_prop_ro(
          "cells",
          [](Lie& lie) {
            return nb::ndarray<nb::numpy, int32_t>(lie.witness.cells.data(), {lie.witness.cells.size()}, nb::find(lie));
          },
          nb::rv_policy::reference)
      .def(
          "values",
          [](Lie& lie, size_t tensor) {
            Values& v = lie.witness.tensors.at(tensor);
            return nb::ndarray<nb::numpy, int64_t>(v.data.data(), {v.channels, v.batch, v.height, v.width},
                                                   nb::find(lie));
          },
          nb::rv_policy::reference, nb::arg("tensor"),
          "Cells less zero point that the tables B are made of, (channel, batch, height, width).")
      .def_prop_rw(
          "outputs", [](const Lie& lie) { return lie.witness.outputs; },
          [](Lie& lie, std::vector<int64_t> outputs) { lie.witness.outputs = std::move(outputs); });
  nb::class_<CheatingProver, Prover>(module, "CheatingProver")
      .def(
          "__init__",
          [](CheatingProver* self, const Srs& srs, const nb::bytes& description, unsigned mode, const Integers& cells,
             const nb::bytes& blinds, std::vector<uint32_t> multipliers, unsigned threads) {
            const auto* bytes = static_cast<const uint8_t*>(description.data());
            Secret<Fr> scalars(blinds.size() / 32);
            for (size_t i = 0; i < scalars.size(); ++i)
              scalars[i] = Fr::reduce(static_cast<const uint8_t*>(blinds.data()) + 32 * i);
            new (self) CheatingProver(srs, parse_description(bytes, description.size()), Mode(mode), cells.data(),
                                      cells.size(), std::move(scalars), std::move(multipliers), threads);
          },
          nb::arg("srs"), nb::arg("description"), nb::arg("mode"), nb::arg("cells"), nb::arg("blinds"),
          nb::arg("multipliers"), nb::arg("threads") = 1, nb::keep_alive<1, 2>())
      .def(
          "witness", [](CheatingProver& p, const Integers& inputs) { return p.witness(inputs.data(), inputs.size()); },
          nb::arg("inputs"), "The honest witness.")
      .def(
          "cheat",
          [](CheatingProver& p, const nb::bytes& context, Lie& lie, const Integers& inputs,
             const std::optional<nb::bytes>& input_blind, const std::optional<Integers>& cells,
             const std::optional<nb::bytes>& mask, bool recount) {
            Digest where;
            std::copy_n(sized(context, 32, "the context"), 32, where.begin());
            auto word = [](const nb::bytes& b) { return Fr::reduce(sized(b, 32, "a scalar")); };
            std::optional<std::vector<int32_t>> weights;
            if (cells) weights.emplace(cells->data(), cells->data() + cells->size());
            const Proof proof = p.cheat(where, lie, inputs.data(), inputs.size(),
                                        input_blind ? word(*input_blind) : Fr::zero(), weights,
                                        mask ? std::optional<Fr>(word(*mask)) : std::nullopt, recount);
            return std::make_tuple(to_bytes(proof.input.data(), proof.input.size()), proof.outputs,
                                   to_bytes(proof.bytes.data(), proof.bytes.size()));
          },
          nb::arg("context"), nb::arg("witness"), nb::arg("inputs"), nb::arg("input_blind").none() = nb::none(),
          nb::arg("cells").none() = nb::none(), nb::arg("mask").none() = nb::none(), nb::arg("recount") = true,
          "(input, outputs, proof) of a witness as it stands, for a statement about `inputs`; not verified.\n"
          "`cells` replace the weights under the same C_W, `mask` is the value of every mask and blind, and\n"
          "without `recount` multiplicities stay as they are.");
}

#endif
