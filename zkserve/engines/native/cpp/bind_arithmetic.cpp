// Arithmetic on words and points as the EVM has them: for input keys, tests and benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bytes.hpp"
#include "keccak.hpp"
#include "msm.hpp"
#include "pairing.hpp"
#include "random.hpp"

namespace nb = nanobind;
using namespace zkserve;

template <class F>
static F word(const nb::bytes& value) {
  F out;
  if (!F::from_bytes(sized(value, 32, "the word"), out)) throw std::invalid_argument("the word is not canonical");
  return out;
}

template <class F>
static nb::bytes word(const F& value) {
  uint8_t out[32];
  value.to_bytes(out);
  return to_bytes(out, 32);
}

static G1Affine point(const uint8_t* bytes) {
  G1Affine out;
  if (!G1Affine::from_bytes(bytes, out)) throw std::invalid_argument("not a canonical point of G1");
  return out;
}

static nb::bytes point(const G1& value) {
  uint8_t out[64];
  G1Affine(value.to_affine()).to_bytes(out);
  return to_bytes(out, 64);
}

template <class F>
static nb::bytes operate(const std::string& operation, const nb::bytes& a, const nb::bytes& b) {
  F x = word<F>(a), y = word<F>(b);
  if (operation == "add") return word(x + y);
  if (operation == "sub") return word(x - y);
  if (operation == "mul") return word(x * y);
  if (operation == "square") return word(x.square());
  if (operation == "negate") return word(-x);
  if (operation == "inverse") return word(x.inverse());
  throw std::invalid_argument("unknown operation");
}

static std::vector<G1Affine> points(const nb::bytes& bytes) {
  if (bytes.size() % 64) throw std::invalid_argument("points take 64 bytes each");
  std::vector<G1Affine> out(bytes.size() / 64);
  for (size_t i = 0; i < out.size(); i++) out[i] = point(static_cast<const uint8_t*>(bytes.data()) + 64 * i);
  return out;
}

// Bases and threads that outlive one sum, as a prover has them.
struct Bases {
  std::vector<G1Affine> points;
  Threads threads;
};

void bind_arithmetic(nb::module_& module) {
  module.def(
      "keccak256",
      [](const nb::bytes& data) {
        uint8_t out[32];
        keccak256(static_cast<const uint8_t*>(data.data()), data.size(), out);
        return to_bytes(out, 32);
      },
      nb::arg("data"));
  module.def("fr", &operate<Fr>, nb::arg("operation"), nb::arg("a"), nb::arg("b"));
  module.def("fq", &operate<Fq>, nb::arg("operation"), nb::arg("a"), nb::arg("b"));
  module.def(
      "fr_reduce", [](const nb::bytes& value) { return word(Fr::reduce(sized(value, 32, "the word"))); },
      nb::arg("value"));
  module.def(
      "fr_from_integer", [](int64_t value) { return word(Fr::from_i64(value)); }, nb::arg("value"));
  module.def(
      "fr_batch_inverse",
      [](const std::vector<nb::bytes>& values) {
        std::vector<Fr> words;
        for (const auto& value : values) words.push_back(word<Fr>(value));
        batch_inverse(words.data(), words.size());
        std::vector<nb::bytes> out;
        for (const auto& value : words) out.push_back(word(value));
        return out;
      },
      nb::arg("values"));
  module.def(
      "g1_add",
      [](const nb::bytes& a, const nb::bytes& b) {
        G1 mixed = point(sized(a, 64, "a"));
        mixed += point(sized(b, 64, "b"));
        G1 full = point(sized(a, 64, "a"));
        full += G1(point(sized(b, 64, "b")));
        if (!(mixed == full)) throw std::runtime_error("two ways to add points disagree");
        return point(mixed);
      },
      nb::arg("a"), nb::arg("b"));
  module.def(
      "g1_multiply",
      [](const nb::bytes& base, const nb::bytes& scalar) {
        return point(G1::multiply(point(sized(base, 64, "the point")), word<Fr>(scalar)));
      },
      nb::arg("point"), nb::arg("scalar"));
  module.def(
      "g2_multiply",
      [](const nb::bytes& base, const nb::bytes& scalar) {
        G2Affine g2;
        if (!G2Affine::from_bytes(sized(base, 128, "the point"), g2))
          throw std::invalid_argument("not a canonical point of G2");
        uint8_t out[128];
        G2Affine(G2::multiply(g2, word<Fr>(scalar)).to_affine()).to_bytes(out);
        return to_bytes(out, sizeof out);
      },
      nb::arg("point"), nb::arg("scalar"));
  module.def("g2_generator", [] {
    uint8_t out[128];
    G2Affine::generator().to_bytes(out);
    return to_bytes(out, sizeof out);
  });
  module.def(
      "pairing_is_one",
      [](const std::vector<std::pair<nb::bytes, nb::bytes>>& pairs) {
        std::vector<std::pair<G1Affine, G2Affine>> decoded;
        for (const auto& [a, b] : pairs) {
          G2Affine g2;
          if (!G2Affine::from_bytes(sized(b, 128, "the point"), g2))
            throw std::invalid_argument("not a canonical point of G2");
          decoded.emplace_back(point(sized(a, 64, "the point")), g2);
        }
        return pairing_is_one(decoded);
      },
      nb::arg("pairs"));
  module.def(
      "random_scalars",
      [](const nb::bytes& key, const nb::bytes& statement, uint64_t attempt, size_t n) {
        auto vector = [](const nb::bytes& b) {
          auto* data = static_cast<const uint8_t*>(b.data());
          return std::vector<uint8_t>(data, data + b.size());
        };
        const std::vector<uint8_t> owner_key = vector(key);
        Random random({owner_key.begin(), owner_key.end()}, vector(statement), attempt);
        std::vector<nb::bytes> out;
        for (size_t i = 0; i < n; i++) out.push_back(word(random.scalar()));
        return out;
      },
      nb::arg("key"), nb::arg("statement"), nb::arg("attempt"), nb::arg("n"));

  nb::class_<Bases>(module, "Bases")
      .def(
          "__init__",
          [](Bases* self, const nb::bytes& bytes, unsigned threads) { new (self) Bases{points(bytes), Threads(threads)}; },
          nb::arg("points"), nb::arg("threads"))
      .def(
          "msm",
          [](Bases& self, const nb::bytes& scalars) {
            size_t n = scalars.size() / 32;
            if (scalars.size() % 32 || n > self.points.size()) throw std::invalid_argument("as many scalars as points");
            std::vector<Fr> values(n);
            for (size_t i = 0; i < n; i++)
              if (!Fr::from_bytes(static_cast<const uint8_t*>(scalars.data()) + 32 * i, values[i]))
                throw std::invalid_argument("the scalar is not canonical");
            G1 sum;
            {
              nb::gil_scoped_release release;
              sum = msm(self.points.data(), values.data(), n, self.threads);
            }
            return point(sum);
          },
          nb::arg("scalars"), "Words in, the sum out.")
      .def(
          "msm_small",
          [](Bases& self, nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> scalars) {
            if (scalars.size() > self.points.size()) throw std::invalid_argument("as many scalars as points");
            G1 sum;
            {
              nb::gil_scoped_release release;
              sum = msm_small(self.points.data(), scalars.data(), scalars.size(), self.threads);
            }
            return point(sum);
          },
          nb::arg("scalars"), "An int32 array in, the sum out.");
}
