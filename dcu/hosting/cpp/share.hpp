// Types that the compiled half of an allocation takes from Python, and what its files share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <complex>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace headroom_share {

namespace nb = nanobind;

using Complex = std::complex<double>;
using Numbers = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Complexes = nb::ndarray<const Complex, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ComplexTable = nb::ndarray<const Complex, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IndexTable = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using SingleNumbers = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using SingleTable = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Flags = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutTable = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutFlagTable = nb::ndarray<bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutCube = nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OutIndices = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A few numbers side by side: sums come out the same, however wide a processor's registers are.
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

// An array as it stands: none is converted, so that what is written is never a copy.
inline auto array(const char* name) { return nb::arg(name).noconvert(); }

inline void check(bool fit) {
  if (!fit) throw std::invalid_argument("arrays that do not fit together");
}

// Where each claim's ports begin in `ports`, the share of each port, and whether a claim may use all on any of them.
struct Claims {
  const std::int64_t *port, *start;
  const double* share;
  const bool* free;
  std::size_t count, all;

  Claims(const Indices& ports, const Indices& starts, const Numbers& shares, const Flags& may, std::size_t n)
      : port(ports.data()), start(starts.data()), share(shares.data()), free(may.data()), count(starts.size()),
        all(ports.size()) {
    check(shares.size() == all && may.size() == count);
    for (std::size_t at = 0; at < all; ++at) check(port[at] >= 0 && static_cast<std::size_t>(port[at]) < n);
    for (std::size_t k = 0; k < count; ++k) check(start[k] >= 0 && static_cast<std::size_t>(start[k]) < end(k));
    check(count == 0 || end(count - 1) == all);
  }

  std::size_t end(std::size_t claim) const { return claim + 1 < count ? start[claim + 1] : all; }

  // A slope by each claim of one by each port; of a claim that is free, the worst.
  void by_limit(const double* by_port, double* to) const {
    if (all == count) {
      for (std::size_t claim = 0; claim < count; ++claim) to[claim] = by_port[port[claim]] * share[claim];
      return;
    }
    for (std::size_t claim = 0; claim < count; ++claim) {
      const std::size_t first = start[claim], last = end(claim);
      double found = free[claim] ? -by_port[port[first]] : 0.0;
      if (free[claim])
        for (std::size_t at = first + 1; at < last; ++at) found = std::max(found, -by_port[port[at]]);
      else
        for (std::size_t at = first; at < last; ++at) found += by_port[port[at]] * share[at];
      to[claim] = found;
    }
  }
};

void define_flows(nb::module_& m);
void define_level(nb::module_& m);
void define_moves(nb::module_& m);

}  // namespace headroom_share
