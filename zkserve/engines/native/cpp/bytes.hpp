// Bytes between Python and the core.
#pragma once

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <string>

namespace zkserve {

inline nanobind::bytes to_bytes(const uint8_t* data, size_t n) { return nanobind::bytes(data, n); }

// The bytes of `value`, which must be `n`; `name` is for the message.
inline const uint8_t* sized(const nanobind::bytes& value, size_t n, const char* name) {
  if (value.size() != n)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(value.size()) + " bytes, expected " +
                                std::to_string(n));
  return static_cast<const uint8_t*>(value.data());
}

}  // namespace zkserve
