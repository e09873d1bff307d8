// The Python module. Files of the core bind what is theirs in functions called from here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "bytes.hpp"
#include "srs.hpp"

namespace nb = nanobind;
using namespace zkserve;

void bind_arithmetic(nb::module_& module);
void bind_verifier(nb::module_& module);
void bind_prover(nb::module_& module);
void bind_registration(nb::module_& module);

static std::string supported_variant() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  bool adx = __builtin_cpu_supports("bmi2") && (ebx >> 19 & 1);
  bool ifma = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512ifma");
  if (adx && ifma) return "_core_ifma";
  if (adx) return "_core_adx";
#endif
  return "_core";
}

NB_MODULE(ZKSERVE_MODULE, module) {
  module.doc() = "The native engine's compiled core.";
  module.def("supported_variant", &supported_variant, "The fastest extension that this CPU can run.");

  nb::class_<Srs>(module, "Srs")
      .def(
          "__init__",
          [](Srs* self, const std::string& path, size_t points) {
            nb::gil_scoped_release release;
            new (self) Srs(Srs::load(path, points));
          },
          nb::arg("path"), nb::arg("points"), "Load the first `points` powers of a file (0: all).")
      .def_prop_ro("digest", [](const Srs& srs) { return to_bytes(srs.digest.data(), srs.digest.size()); })
      .def_prop_ro("size", [](const Srs& srs) { return srs.g1.size(); })
      .def_prop_ro("development", [](const Srs& srs) { return srs.development; })
      .def_prop_ro("g2_s",
                   [](const Srs& srs) {
                     uint8_t bytes[128];
                     srs.g2_s.to_bytes(bytes);
                     return to_bytes(bytes, sizeof bytes);
                   })
      .def(
          "point",
          [](const Srs& srs, size_t power) {
            if (power >= srs.g1.size()) throw nb::index_error("the SRS has no such power");
            uint8_t bytes[64];
            srs.g1[power].to_bytes(bytes);
            return to_bytes(bytes, sizeof bytes);
          },
          nb::arg("power"));
  module.def(
      "srs_generate",
      [](const std::string& path, size_t points, unsigned threads) {
        nb::gil_scoped_release release;
        Threads pool(threads);
        Srs::generate(points, pool).save(path);
      },
      nb::arg("path"), nb::arg("points"), nb::arg("threads") = 1, "Write a development SRS.");
  module.def(
      "srs_import_ptau",
      [](const std::string& ptau, const std::string& path, size_t points, unsigned threads) {
        nb::gil_scoped_release release;
        Threads pool(threads);
        Srs::import_ptau(ptau, points, pool).save(path);
      },
      nb::arg("ptau_path"), nb::arg("out_path"), nb::arg("points"), nb::arg("threads") = 1,
      "Check a ceremony's powers of tau and write them as an SRS.");
  module.def(
      "srs_check",
      [](const std::string& path, size_t points, unsigned threads) {
        nb::gil_scoped_release release;
        Threads pool(threads);
        Srs::load(path, points).check(pool);
      },
      nb::arg("path"), nb::arg("points"), nb::arg("threads") = 1,
      "ValueError unless the points are consecutive powers of the secret.");

  bind_arithmetic(module);
  bind_verifier(module);
  bind_prover(module);
  bind_registration(module);
}
