// The doors of the compiled half of an allocation: what `dcu/hosting/fill.py`, `allocate.py` and `headroom.py` do in NumPy
// where this is missing, claim by claim and without the arrays in between. Plain loops, one build, the same sums on every
// processor of a kind. See there for what is meant and why.
//
// Nomenclature: c constraints, m claims, n ports; limits x [W] (m).
#include "share.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "filling.hpp"
#include "simplex.hpp"

namespace headroom_share {
namespace {

// Under a x <= b, a (c, m), from x on; in order of arrival or together.
void fill(Table a, Numbers b, Numbers wanted, Numbers weight, bool in_order, Out x, OutIndices binding) {
  const std::size_t c = a.shape(0), m = a.shape(1);
  check(b.size() == c && x.size() == m && wanted.size() == m && weight.size() == m && binding.size() == m);
  Filling filling(m, wanted.data(), weight.data(), x.data(), binding.data());
  for (std::size_t r = 0; r < c; ++r) filling.add(r, a.data() + r * m, b(r) - along(a.data() + r * m, x.data(), m));
  in_order ? filling.in_order() : filling.together();
}

// The largest sum under a x <= b, a (c, m), between low and high; all of x and binding is written.
void fill_to_most(Table a, Numbers b, Numbers low, Numbers high, Out x, OutIndices binding) {
  const std::size_t c = a.shape(0), m = a.shape(1);
  check(b.size() == c && low.size() == m && high.size() == m && x.size() == m && binding.size() == m);
  Rows rows{{}, std::vector<double>(b.data(), b.data() + c)};
  for (std::size_t r = 0; r < c; ++r) rows.of.push_back(a.data() + r * m);
  fill_most(rows, m, low.data(), high.data(), x.data(), binding.data());
}

// Slopes by claims of slopes by ports.
void by_limit(Table by_port, Indices ports, Indices starts, Numbers share, Flags free, OutTable out) {
  const Claims claims(ports, starts, share, free, by_port.shape(1));
  check(out.shape(0) == by_port.shape(0) && out.shape(1) == claims.count);
  for (std::size_t k = 0; k < by_port.shape(0); ++k)
    claims.by_limit(by_port.data() + k * by_port.shape(1), out.data() + k * claims.count);
}

// One claim's limit used in full, in place of what is measured.
void use(const Claims& claims, std::size_t claim, double limit, const double* now, std::size_t through, double* to) {
  const std::size_t first = claims.start[claim], last = claims.end(claim);
  const std::int64_t* port = claims.port;
  if (last - first == 1) {
    to[port[first]] = -limit;
    return;
  }
  double exported = 0.0;
  for (std::size_t at = first; at < last; ++at) exported -= now[port[at]];
  const double more = limit - exported;
  if (!claims.free[claim]) {
    for (std::size_t at = first; at < last; ++at) to[port[at]] = now[port[at]] + more * claims.share[at];
    return;
  }
  const std::size_t used = first + through;
  check(used < last);
  double there = 0.0;  // what the other phases export, which falls first where a claim exports less
  for (std::size_t at = first; at < last; ++at)
    if (at != used) there += std::max(-now[port[at]], 0.0);
  const double fall = std::min(std::max(-more, 0.0), there), part = there > 0.0 ? fall / there : 0.0;
  for (std::size_t at = first; at < last; ++at) {
    const double p = now[port[at]];
    to[port[at]] = p - (at == used ? more + fall : -part * std::max(-p, 0.0));
  }
}

// Draws with each claim's limit (s, m) fully used, beside others (c, n): (s, c, n). In each case a claim that is free uses
// all of an increase on one of its ports, which `through` (c, m) names.
void powers(Table limits, Table others, Numbers now, Indices ports, Indices starts, Numbers share, Flags free,
            IndexTable through, OutCube out) {
  const std::size_t n = now.size(), cases = out.shape(1), ways = through.shape(0), m = through.shape(1);
  const Claims claims(ports, starts, share, free, n);
  check(out.shape(0) == limits.shape(0) && out.shape(2) == n && others.shape(1) == n && ways > 0);
  check((others.shape(0) == cases || others.shape(0) == 1) && limits.shape(1) == claims.count && m == claims.count);
  for (std::size_t s = 0; s < limits.shape(0); ++s)
    for (std::size_t k = 0; k < cases; ++k) {
      double* to = out.data() + (s * cases + k) * n;
      std::copy_n(others.data() + (others.shape(0) == 1 ? 0 : k) * n, n, to);
      use_all(claims, limits.data() + s * m, now.data(), through.data() + std::min(k, ways - 1) * m, to);
    }
}

// The worst of some cases (s, c), each with something of its own added (s or 1, c), and which it is.
void worst_case(Table found, std::optional<Table> extra, Out worst, OutIndices which) {
  const std::size_t states = found.shape(0), c = found.shape(1);
  check(worst.size() == c && which.size() == c && states > 0);
  check(!extra || ((extra->shape(0) == states || extra->shape(0) == 1) && extra->shape(1) == c));
  std::vector<double> each;
  if (extra && extra->shape(0) != states)
    for (std::size_t s = 0; s < states; ++s) each.insert(each.end(), extra->data(), extra->data() + c);
  const double* more = !extra ? nullptr : each.empty() ? extra->data() : each.data();
  worst_of(found.data(), more, states, c, worst.data(), which.data());
}

}  // namespace

void use_all(const Claims& claims, const double* limits, const double* now, const std::int64_t* through, double* to) {
  for (std::size_t claim = 0; claim < claims.count; ++claim) use(claims, claim, limits[claim], now, through[claim], to);
}

void worst_of(const double* found, const double* extra, std::size_t states, std::size_t c, double* __restrict worst,
              std::int64_t* __restrict which) {
  for (std::size_t r = 0; r < c; ++r) worst[r] = extra ? found[r] + extra[r] : found[r], which[r] = 0;
  for (std::size_t s = 1; s < states; ++s) {
    const double *from = found + s * c, *more = extra ? extra + s * c : nullptr;
    const std::int64_t here = static_cast<std::int64_t>(s);
    for (std::size_t r = 0; r < c; ++r) {
      const double value = more ? from[r] + more[r] : from[r];
      const bool above = value > worst[r];
      worst[r] = above ? value : worst[r], which[r] = above ? here : which[r];
    }
  }
}

}  // namespace headroom_share

NB_MODULE(HEADROOM_SHARE, m) {
  using namespace headroom_share;
  m.doc() = "The inner loops of an allocation, compiled; see dcu/hosting/cpp. Used through dcu.hosting.compiled.";
  m.def("fill", &fill, array("a"), array("b"), array("wanted"), array("weight"), nb::arg("in_order"), array("x"),
        array("binding"), "Claims grow from x on under a x <= b, together or in order.");
  m.def("fill_most", &fill_to_most, array("a"), array("b"), array("low"), array("high"), array("x"), array("binding"),
        "The largest sum under a x <= b between low and high.");
  m.def("by_limit", &by_limit, array("by_port"), array("ports"), array("starts"), array("share"), array("free"), array("out"),
        "Slopes by claims of slopes by ports.");
  m.def("powers", &powers, array("limits"), array("others"), array("now"), array("ports"), array("starts"), array("share"), array("free"), array("through"),
        array("out"), "Draws with each claim's limit fully used, in each case (n_state, n_case, n).");
  m.def("worst_case", &worst_case, array("found"), array("extra").none(), array("worst"), array("which"),
        "The worst of some cases of each constraint, and which it is.");
  define_flows(m);
  define_level(m);
  define_moves(m);
  define_sharing(m);
}
