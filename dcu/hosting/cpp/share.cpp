// The linear half of an allocation, compiled: what `dcu/hosting/fill.py` and `headroom.py` do in NumPy where this is
// missing, claim by claim and without the arrays in between. Plain loops, one build, the same sums on every processor of a
// kind. No power flow and no name of a constraint; see there for what is meant and why.
//
// Nomenclature: c constraints, m claims, n ports; `by_claim` (m, c) [1/W], slack (c), limits x [W] (m).
#include "share.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace headroom_share {
namespace {

using nb::literals::operator""_a;

constexpr double push_min = 1e-9;  // PUSH_MIN of fill.py
constexpr std::int64_t nothing = -1;  // FREE of fill.py

void check_ports(const Indices& ports, const Indices& starts, std::size_t n) {
  const std::size_t m = starts.size(), all = ports.size();
  for (std::size_t at = 0; at < all; ++at) check(ports(at) >= 0 && static_cast<std::size_t>(ports(at)) < n);
  for (std::size_t k = 0; k < m; ++k)
    check(starts(k) >= 0 && static_cast<std::size_t>(starts(k)) < (k + 1 < m ? starts(k + 1) : all));
}

struct Hit {
  std::int64_t row = nothing;
  double reach = 0.0;
};

// The first constraint that runs out when all grow for `step` at these rates, and when.
Hit first_hit(const double* slack, const double* rate, std::size_t c, double step) {
  Hit hit;
  std::size_t any = 0;
  for (std::size_t r = 0; r < c; ++r) any += (rate[r] > 0.0) & (slack[r] < rate[r] * step);
  if (!any) return hit;
  for (std::size_t r = 0; r < c; ++r) {
    if (!(rate[r] > 0.0) || !(slack[r] < rate[r] * step)) continue;
    const double reach = std::max(slack[r], 0.0) / rate[r];
    if (hit.row == nothing || reach < hit.reach) hit = {static_cast<std::int64_t>(r), reach};
  }
  return hit;
}

void take(double* slack, const double* rate, std::size_t c, double step) {
  for (std::size_t r = 0; r < c; ++r) slack[r] -= step * rate[r];
}

// One round of `_Filling`: everybody grows until nobody moves.
void fill_round(Table by_claim, Out slack, Out x, Numbers wanted, Numbers weight, OutIndices binding) {
  const std::size_t m = by_claim.shape(0), c = by_claim.shape(1);
  check(slack.size() == c && x.size() == m && wanted.size() == m && weight.size() == m && binding.size() == m);
  const double* a = by_claim.data();
  const auto row_of = [&](std::size_t k) { return a + k * c; };
  std::vector<std::size_t> moving;
  std::vector<double> room(m), rate(c, 0.0);
  for (std::size_t k = 0; k < m; ++k) {
    if (!(x(k) < wanted(k))) continue;
    moving.push_back(k);
    room[k] = (wanted(k) - x(k)) / weight(k);
    binding(k) = nothing;
    const double *column = row_of(k), w = weight(k);
    for (std::size_t r = 0; r < c; ++r) rate[r] += w * column[r];
  }
  std::stable_sort(moving.begin(), moving.end(), [&](std::size_t i, std::size_t k) { return room[i] < room[k]; });
  const auto leave = [&](std::size_t k) {
    const double *column = row_of(k), w = weight(k);
    for (std::size_t r = 0; r < c; ++r) rate[r] -= w * column[r];
  };
  double grown = 0.0;
  for (std::size_t at = 0; at < moving.size();) {
    const std::size_t next = moving[at];
    const Hit hit = first_hit(slack.data(), rate.data(), c, room[next] - grown);
    if (hit.row == nothing) {
      take(slack.data(), rate.data(), c, room[next] - grown);
      grown = room[next], x(next) = wanted(next);
      leave(next), ++at;
      continue;
    }
    take(slack.data(), rate.data(), c, hit.reach);
    grown += hit.reach;
    double least = push_min;
    const auto pushes = [&](std::size_t k) { return row_of(k)[hit.row] > least; };
    if (std::none_of(moving.begin() + at, moving.end(), pushes)) least = 0.0;
    const bool all = std::none_of(moving.begin() + at, moving.end(), pushes);  // rounding alone: nobody could move
    std::size_t kept = at;
    for (std::size_t k = at; k < moving.size(); ++k) {
      const std::size_t claim = moving[k];
      if (all || pushes(claim)) x(claim) += grown * weight(claim), binding(claim) = hit.row, leave(claim);
      else moving[kept++] = claim;
    }
    moving.resize(kept);
  }
}

// One round of `fill_in_order`: each claim as far as it goes, in the order of arrival.
void order_round(Table by_claim, Out slack, Out x, Numbers wanted, OutIndices binding) {
  const std::size_t m = by_claim.shape(0), c = by_claim.shape(1);
  check(slack.size() == c && x.size() == m && wanted.size() == m && binding.size() == m);
  const double* a = by_claim.data();
  std::vector<std::size_t> todo;
  for (std::size_t k = 0; k < m; ++k)
    if (x(k) < wanted(k)) todo.push_back(k), binding(k) = nothing;
  for (std::size_t at = 0; at < todo.size(); ++at) {
    const std::size_t claim = todo[at];
    const double *column = a + claim * c, step = wanted(claim) - x(claim);
    const Hit hit = first_hit(slack.data(), column, c, step);
    if (hit.row == nothing) {
      take(slack.data(), column, c, step);
      x(claim) = wanted(claim);
      continue;
    }
    take(slack.data(), column, c, hit.reach);
    x(claim) += hit.reach, binding(claim) = hit.row;
    std::size_t kept = at + 1;
    for (std::size_t k = at + 1; k < todo.size(); ++k) {
      if (a[todo[k] * c + hit.row] > push_min) binding(todo[k]) = hit.row;
      else todo[kept++] = todo[k];
    }
    todo.resize(kept);
  }
}

// Slopes by claims of slopes by ports: where each claim's begin in `ports`, the share of each; of a claim that is free
// to use all on any of its phases, the worst.
void by_limit(Table by_port, Indices ports, Indices starts, Numbers share, Flags free, OutTable out) {
  const std::size_t n = by_port.shape(1), m = out.shape(1), all = ports.size();
  const std::int64_t *port = ports.data(), *start = starts.data();
  const double* part = share.data();
  check(starts.size() == m && share.size() == all && free.size() == m && out.shape(0) == by_port.shape(0));
  check_ports(ports, starts, n);
  for (std::size_t k = 0; k < by_port.shape(0); ++k) {
    const double* from = by_port.data() + k * n;
    double* to = out.data() + k * m;
    for (std::size_t claim = 0; claim < m; ++claim) {
      const std::size_t first = start[claim], end = claim + 1 < m ? start[claim + 1] : all;
      double found = free(claim) ? -from[port[first]] : 0.0;
      for (std::size_t at = first; at < end; ++at)
        found = free(claim) ? std::max(found, -from[port[at]]) : found + from[port[at]] * part[at];
      to[claim] = found;
    }
  }
}

// Draws with each claim's limit fully used, beside others (s, c, n), of several states: (s, c, n). In each case a claim
// that is free uses all of an increase on one of its ports, which `through` (c, m) names.
void powers(Table limits, Table others, Numbers now, Indices ports, Indices starts, Numbers share, Flags free,
            IndexTable through, OutCube out) {
  const std::size_t n = now.size(), m = limits.shape(1), all = ports.size(), cases = out.shape(1);
  check(out.shape(0) == limits.shape(0) && out.shape(2) == n && others.shape(1) == n);
  check((others.shape(0) == cases || others.shape(0) == 1) && starts.size() == m && free.size() == m);
  check(share.size() == all && through.shape(1) == m && through.shape(0) > 0);
  check_ports(ports, starts, n);
  std::vector<double> exported(m, 0.0);
  for (std::size_t claim = 0; claim < m; ++claim)
    for (std::size_t at = starts(claim), end = claim + 1 < m ? starts(claim + 1) : all; at < end; ++at)
      exported[claim] -= now(ports(at));
  for (std::size_t s = 0; s < limits.shape(0); ++s)
    for (std::size_t k = 0; k < cases; ++k) {
      double* to = out.data() + (s * cases + k) * n;
      std::copy_n(others.data() + (others.shape(0) == 1 ? 0 : k) * n, n, to);
      const std::size_t which = std::min<std::size_t>(k, through.shape(0) - 1);
      for (std::size_t claim = 0; claim < m; ++claim) {
        const std::size_t first = starts(claim), end = claim + 1 < m ? starts(claim + 1) : all;
        const double more = limits(s, claim) - exported[claim];
        if (end - first == 1) {
          to[ports(first)] = -limits(s, claim);
          continue;
        }
        if (!free(claim)) {
          for (std::size_t at = first; at < end; ++at) to[ports(at)] = now(ports(at)) + more * share(at);
          continue;
        }
        const std::size_t used = first + through(which, claim);
        check(used < end);
        double there = 0.0;  // what the other phases export, which falls first where a claim exports less
        for (std::size_t at = first; at < end; ++at)
          if (at != used) there += std::max(-now(ports(at)), 0.0);
        const double fall = std::min(std::max(-more, 0.0), there), part = there > 0.0 ? fall / there : 0.0;
        for (std::size_t at = first; at < end; ++at) {
          const double p = now(ports(at));
          to[ports(at)] = p - (at == used ? more + fall : -part * std::max(-p, 0.0));
        }
      }
    }
}

// What some unused exports (j) are missed for: the positive part of `rise` (n, j) above, the negative one below (2 n).
void relief(SingleTable rise, SingleNumbers unused, Out out) {
  constexpr std::size_t lanes = 16;
  const std::size_t n = rise.shape(0), exports = unused.size();
  check(rise.shape(1) == exports && out.size() == 2 * n);
  const float* u = unused.data();
  for (std::size_t k = 0; k < n; ++k) {
    const float* row = rise.data() + k * exports;
    float up[lanes] = {}, down[lanes] = {};
    std::size_t j = 0;
    for (; j + lanes <= exports; j += lanes)
      for (std::size_t l = 0; l < lanes; ++l) {
        const float part = row[j + l] * u[j + l];
        up[l] += std::max(part, 0.0f), down[l] += std::min(part, 0.0f);
      }
    for (; j < exports; ++j) {
      const float part = row[j] * u[j];
      up[0] += std::max(part, 0.0f), down[0] += std::min(part, 0.0f);
    }
    out(k) = std::accumulate(up, up + lanes, 0.0);
    out(n + k) = -std::accumulate(down, down + lanes, 0.0);
  }
}

}  // namespace
}  // namespace headroom_share

NB_MODULE(_share, m) {
  using namespace headroom_share;
  m.doc() = "The inner loops of an allocation, compiled; see dcu/hosting/cpp. Used through dcu.hosting.compiled.";
  m.def("fill_round", &fill_round, "by_claim"_a, "slack"_a, "x"_a, "wanted"_a, "weight"_a, "binding"_a,
        "Everybody grows along his weight until nobody moves.");
  m.def("order_round", &order_round, "by_claim"_a, "slack"_a, "x"_a, "wanted"_a, "binding"_a,
        "Each claim as far as it goes, one after the other.");
  m.def("by_limit", &by_limit, "by_port"_a, "ports"_a, "starts"_a, "share"_a, "free"_a, "out"_a,
        "Slopes by claims of slopes by ports.");
  m.def("powers", &powers, "limits"_a, "others"_a, "now"_a, "ports"_a, "starts"_a, "share"_a, "free"_a, "through"_a,
        "out"_a, "Draws with each claim's limit fully used, in each case (n_state, n_case, n).");
  m.def("relief", &relief, "rise"_a, "unused"_a, "out"_a,
        "What the unused exports would have taken off, above and below.");
  define_flows(m);
}
