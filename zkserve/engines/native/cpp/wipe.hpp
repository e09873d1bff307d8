// Erasing secrets.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

namespace zkserve {

// Overwrite memory in a way that the compiler keeps.
inline void wipe(void* memory, size_t n) {
  std::memset(memory, 0, n);
  __asm__ __volatile__("" : : "r"(memory) : "memory");
}

// Overwrites what it is given when its scope ends, also by an exception; declared after that.
class Wiping {
 public:
  template <class T>
  explicit Wiping(T& secret) : Wiping(&secret, sizeof secret) {
    static_assert(std::is_trivially_destructible<T>::value, "what it holds elsewhere would stay");
  }
  Wiping(const Wiping&) = delete;
  Wiping& operator=(const Wiping&) = delete;
  ~Wiping() { wipe(memory_, n_); }

 private:
  Wiping(void* memory, size_t n) : memory_(memory), n_(n) {}
  void* memory_;
  size_t n_;
};

}  // namespace zkserve
