// Vectors whose memory is overwritten before it is given back.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "wipe.hpp"

namespace zkserve {

template <class T>
struct WipingAllocator {
  using value_type = T;
  WipingAllocator() = default;
  template <class U>
  WipingAllocator(const WipingAllocator<U>&) {}
  T* allocate(size_t n) { return std::allocator<T>().allocate(n); }
  void deallocate(T* data, size_t n) {
    wipe(static_cast<void*>(data), n * sizeof(T));
    std::allocator<T>().deallocate(data, n);
  }
  template <class U>
  bool operator==(const WipingAllocator<U>&) const {
    return true;
  }
  template <class U>
  bool operator!=(const WipingAllocator<U>&) const {
    return false;
  }
};

// For weights, activations, blinds and whatever is computed from them.
template <class T>
using Secret = std::vector<T, WipingAllocator<T>>;

}  // namespace zkserve
