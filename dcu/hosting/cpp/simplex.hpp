// The largest sum under linear constraints: `fill_most` and `largest_sum` of `dcu/hosting/fill.py`; see there for the method.
//
// Nomenclature: c constraints, m claims; a (c, m) [1/W], b (c), limits low, high and x [W] (m).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace headroom_share {

// Constraints by their slopes (m) and what they may come to.
struct Rows {
  std::vector<const double*> of;
  std::vector<double> most;
};

// From `low` on towards `high`; `binding` is a place among the rows, or nothing. All of `x` and `binding` is written.
void fill_most(const Rows& rows, std::size_t m, const double* low, const double* high, double* x, std::int64_t* binding);

}  // namespace headroom_share
