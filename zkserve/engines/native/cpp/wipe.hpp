// Erasing secrets.
#pragma once

#include <cstddef>
#include <cstring>

namespace zkserve {

// Overwrite memory in a way that the compiler keeps.
inline void wipe(void* memory, size_t n) {
  std::memset(memory, 0, n);
  __asm__ __volatile__("" : : "r"(memory) : "memory");
}

}  // namespace zkserve
