// A few numbers side by side: sums come out the same, however wide a processor's registers are.
#pragma once
#include <cstring>

namespace headroom_share {

typedef double Four __attribute__((vector_size(4 * sizeof(double))));
typedef float Eight __attribute__((vector_size(8 * sizeof(float))));

template <typename V, typename T>
inline V load(const T* from) {
  V found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

inline double total(Four x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline double total(Eight x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

}  // namespace headroom_share
