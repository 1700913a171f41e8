// Types that the compiled half of an allocation takes from Python, and what its files share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <complex>
#include <cstdint>
#include <stdexcept>

#include "four.hpp"

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
  bool threes = false;  // each has three ports and may use all on any of them, the common case

  Claims(const Indices& ports, const Indices& starts, const Numbers& shares, const Flags& may, std::size_t n)
      : port(ports.data()), start(starts.data()), share(shares.data()), free(may.data()), count(starts.size()),
        all(ports.size()) {
    check(shares.size() == all && may.size() == count);
    for (std::size_t at = 0; at < all; ++at) check(port[at] >= 0 && static_cast<std::size_t>(port[at]) < n);
    for (std::size_t k = 0; k < count; ++k) check(start[k] >= 0 && static_cast<std::size_t>(start[k]) < end(k));
    check(count == 0 || end(count - 1) == all);
    threes = all == 3 * count;
    for (std::size_t k = 0; k < count; ++k) threes = threes && free[k] && end(k) - start[k] == 3;
  }

  std::size_t end(std::size_t claim) const { return claim + 1 < count ? start[claim + 1] : all; }

  // A slope by each claim of one by each port; of a claim that is free, the worst.
  void by_limit(const double* by_port, double* to) const {
    if (all == count) {
      for (std::size_t claim = 0; claim < count; ++claim) to[claim] = by_port[port[claim]] * share[claim];
      return;
    }
    if (threes) {
      const std::int64_t* at = port;
      for (std::size_t claim = 0; claim < count; ++claim, at += 3)
        to[claim] = std::max(std::max(-by_port[at[0]], -by_port[at[1]]), -by_port[at[2]]);
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

// Draws (n) with each claim's limit (m) used in full, in place of what is measured (n); of a claim that is free all of an
// increase on one of its ports, which `through` (m) names.
void use_all(const Claims& claims, const double* limits, const double* now, const std::int64_t* through, double* to);

// The worst of some cases (s, c), each with something of its own added (s, c; or null), and which it is.
void worst_of(const double* found, const double* extra, std::size_t states, std::size_t c, double* worst, std::int64_t* which);

void define_flows(nb::module_& m);
void define_level(nb::module_& m);
void define_moves(nb::module_& m);
void define_sharing(nb::module_& m);

}  // namespace headroom_share
