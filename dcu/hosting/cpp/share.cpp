// The linear half of an allocation, compiled: what `dcu/hosting/fill.py` and `headroom.py` do in NumPy where this is
// missing, claim by claim and without the arrays in between. Plain loops, one build, the same sums on every processor of a
// kind. No power flow and no name of a constraint; see there for what is meant and why.
//
// Nomenclature: c constraints, m claims, n ports; `by_claim` (m, c) [1/W], slack (c), limits x [W] (m).
#include "share.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace headroom_share {
namespace {

constexpr double push_min = 1e-9;     // PUSH_MIN of fill.py
constexpr std::int64_t nothing = -1;  // FREE of fill.py
constexpr int rounds_max = 6;         // ROUNDS_MAX, WORTH_W, WORTH_SHARE of fill.py
constexpr double worth_w = 25.0, worth_share = 3e-4;

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

// Claims (m) that grow from `x` on; what others relieve on the way may let some go on, so that it is repeated while it pays.
class Filling {
 public:
  Filling(std::size_t m, const double* wanted, const double* weight, double* x, std::int64_t* binding)
      : way_(m), wanted_(wanted), weight_(weight), m_(m), x_(x), binding_(binding) {
    for (std::size_t k = 0; k < m; ++k) way_[k] = wanted[k] - x[k];
  }

  // One more constraint: slopes (m), how much is `left` of it at x.
  void add(std::size_t row, const double* a, double left) {
    Four sum{};
    std::size_t k = 0;
    for (; k + 4 <= m_; k += 4) {
      const Four slope = load<Four>(a + k);
      sum += (slope > 0.0 ? slope : Four{}) * load<Four>(way_.data() + k);
    }
    double most = total(sum);
    for (; k < m_; ++k) most += std::max(a[k], 0.0) * way_[k];
    if (most < left) return;  // room for everybody's wish, whatever others relieve
    rows_.push_back(row), of_.push_back(a), slack_.push_back(left);
  }

  // `fill_together`: max-min fair in units of the weights. Everybody grows until nobody moves.
  void together() {
    begin();
    for (int k = 0; k < rounds_max; ++k) {
      const double before = sum();
      round();
      if (stuck() || !pays(before)) break;
    }
    end();
  }

  // `fill_in_order`: each as far as it goes, in the order of arrival.
  void in_order() {
    begin();
    for (int k = 0; k < rounds_max; ++k) {
      const double before = sum();
      round_in_order();
      if (!pays(before)) break;
    }
    end();
  }

 private:
  void begin() {
    c_ = rows_.size(), by_claim_.resize(m_ * c_);
    constexpr std::size_t block = 8;  // rows whose numbers for one claim fill a line of the cache
    for (std::size_t first = 0; first < c_; first += block)
      for (std::size_t k = 0, last = std::min(first + block, c_); k < m_; ++k)
        for (std::size_t r = first; r < last; ++r) by_claim_[k * c_ + r] = of_[r][k];
  }

  void end() {
    for (std::size_t k = 0; k < m_; ++k) {
      if (!(x_[k] < wanted_[k])) binding_[k] = nothing;
      if (binding_[k] != nothing) binding_[k] = static_cast<std::int64_t>(rows_[binding_[k]]);
    }
  }

  bool pays(double before) const { return !(sum() - before < std::max(worth_w, worth_share * before)); }

  const double* row_of(std::size_t k) const { return by_claim_.data() + k * c_; }

  double sum() const { return std::accumulate(x_, x_ + m_, 0.0); }

  // Whether whoever wants more pushes a constraint that has nothing left.
  bool stuck() const {
    std::vector<std::size_t> spent;
    for (std::size_t r = 0; r < c_; ++r)
      if (slack_[r] <= 0.0) spent.push_back(r);
    for (std::size_t k = 0; k < m_; ++k) {
      if (!(x_[k] < wanted_[k])) continue;
      const double* column = row_of(k);
      if (std::none_of(spent.begin(), spent.end(), [&](std::size_t r) { return column[r] > push_min; })) return false;
    }
    return true;
  }

  void leave(std::size_t k, double* __restrict rate) const {
    const double* __restrict column = row_of(k);
    const double w = weight_[k];
    for (std::size_t r = 0; r < c_; ++r) rate[r] -= w * column[r];
  }

  void round() {
    std::vector<std::size_t> moving;
    std::vector<double> room(m_), rate(c_, 0.0);
    for (std::size_t k = 0; k < m_; ++k) {
      if (!(x_[k] < wanted_[k])) continue;
      moving.push_back(k);
      room[k] = (wanted_[k] - x_[k]) / weight_[k];
      binding_[k] = nothing;
      const double *column = row_of(k), w = weight_[k];
      for (std::size_t r = 0; r < c_; ++r) rate[r] += w * column[r];
    }
    std::stable_sort(moving.begin(), moving.end(), [&](std::size_t i, std::size_t k) { return room[i] < room[k]; });
    double grown = 0.0;
    for (std::size_t at = 0; at < moving.size();) {
      const std::size_t next = moving[at];
      const Hit hit = first_hit(slack_.data(), rate.data(), c_, room[next] - grown);
      if (hit.row == nothing) {
        take(slack_.data(), rate.data(), c_, room[next] - grown);
        grown = room[next], x_[next] = wanted_[next];
        leave(next, rate.data()), ++at;
        continue;
      }
      take(slack_.data(), rate.data(), c_, hit.reach);
      grown += hit.reach;
      double least = push_min;
      const auto pushes = [&](std::size_t k) { return row_of(k)[hit.row] > least; };
      if (std::none_of(moving.begin() + at, moving.end(), pushes)) least = 0.0;
      const bool all = std::none_of(moving.begin() + at, moving.end(), pushes);  // rounding alone: nobody could move
      std::size_t kept = at;
      for (std::size_t k = at; k < moving.size(); ++k) {
        const std::size_t claim = moving[k];
        if (!all && !pushes(claim)) {
          moving[kept++] = claim;
          continue;
        }
        x_[claim] += grown * weight_[claim], binding_[claim] = hit.row, leave(claim, rate.data());
      }
      moving.resize(kept);
    }
  }

  void round_in_order() {
    std::vector<std::size_t> todo;
    for (std::size_t k = 0; k < m_; ++k)
      if (x_[k] < wanted_[k]) todo.push_back(k), binding_[k] = nothing;
    for (std::size_t at = 0; at < todo.size(); ++at) {
      const std::size_t claim = todo[at];
      const double *column = row_of(claim), step = wanted_[claim] - x_[claim];
      const Hit hit = first_hit(slack_.data(), column, c_, step);
      if (hit.row == nothing) {
        take(slack_.data(), column, c_, step);
        x_[claim] = wanted_[claim];
        continue;
      }
      take(slack_.data(), column, c_, hit.reach);
      x_[claim] += hit.reach, binding_[claim] = hit.row;
      std::size_t kept = at + 1;
      for (std::size_t k = at + 1; k < todo.size(); ++k) {
        if (row_of(todo[k])[hit.row] > push_min) binding_[todo[k]] = hit.row;
        else todo[kept++] = todo[k];
      }
      todo.resize(kept);
    }
  }

  std::vector<std::size_t> rows_;  // names of those that may bind
  std::vector<const double*> of_;  // their slopes
  std::vector<double> by_claim_, slack_, way_;
  const double *wanted_, *weight_;
  std::size_t m_, c_ = 0;
  double* x_;
  std::int64_t* binding_;
};

double along(const double* a, const double* x, std::size_t m) {
  Four sum{};
  std::size_t k = 0;
  for (; k + 4 <= m; k += 4) sum += load<Four>(a + k) * load<Four>(x + k);
  double rest = 0.0;
  for (; k < m; ++k) rest += a[k] * x[k];
  return total(sum) + rest;
}

// Under a x <= b, a (c, m), from x on; in order of arrival or together.
void fill(Table a, Numbers b, Numbers wanted, Numbers weight, bool in_order, Out x, OutIndices binding) {
  const std::size_t c = a.shape(0), m = a.shape(1);
  check(b.size() == c && x.size() == m && wanted.size() == m && weight.size() == m && binding.size() == m);
  Filling filling(m, wanted.data(), weight.data(), x.data(), binding.data());
  for (std::size_t r = 0; r < c; ++r) filling.add(r, a.data() + r * m, b(r) - along(a.data() + r * m, x.data(), m));
  in_order ? filling.in_order() : filling.together();
}

// The same under those constraints (c) that are near and have a finite `room`, less a margin, at other limits (m); their
// slopes are in some `place` of a table.
void fill_near(Table slopes, Indices place, Flags near, Numbers room, double margin, Numbers at, Numbers wanted,
               Numbers weight, bool in_order, Out x, OutIndices binding) {
  const std::size_t c = place.size(), m = slopes.shape(1);
  check(near.size() == c && room.size() == c && at.size() == m && x.size() == m && wanted.size() == m);
  check(weight.size() == m && binding.size() == m);
  Filling filling(m, wanted.data(), weight.data(), x.data(), binding.data());
  std::vector<double> back(m);
  for (std::size_t k = 0; k < m; ++k) back[k] = at(k) - x(k);
  const bool moved = std::any_of(back.begin(), back.end(), [](double watts) { return watts != 0.0; });
  for (std::size_t r = 0; r < c; ++r) {
    if (!near(r) || !std::isfinite(room(r))) continue;
    check(place(r) >= 0 && static_cast<std::size_t>(place(r)) < slopes.shape(0));
    const double* a = slopes.data() + place(r) * m;
    filling.add(r, a, room(r) - margin + (moved ? along(a, back.data(), m) : 0.0));
  }
  in_order ? filling.in_order() : filling.together();
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
      const std::int64_t* way = through.data() + std::min(k, ways - 1) * m;
      for (std::size_t claim = 0; claim < m; ++claim)
        use(claims, claim, limits.data()[s * m + claim], now.data(), way[claim], to);
    }
}

// The worst of some cases (s, c), each with something of its own added (s or 1, c), and which it is.
void worst_case(Table found, std::optional<Table> extra, Out worst, OutIndices which) {
  const std::size_t states = found.shape(0), c = found.shape(1);
  check(worst.size() == c && which.size() == c && states > 0);
  check(!extra || ((extra->shape(0) == states || extra->shape(0) == 1) && extra->shape(1) == c));
  const std::size_t each = extra && extra->shape(0) == states ? c : 0;
  double* most = worst.data();
  std::int64_t* at = which.data();
  for (std::size_t s = 0; s < states; ++s) {
    const double *from = found.data() + s * c, *more = extra ? extra->data() + s * each : nullptr;
    for (std::size_t r = 0; r < c; ++r) {
      const double value = more ? from[r] + more[r] : from[r];
      if (s == 0 || value > most[r]) most[r] = value, at[r] = static_cast<std::int64_t>(s);
    }
  }
}

}  // namespace
}  // namespace headroom_share

NB_MODULE(HEADROOM_SHARE, m) {
  using namespace headroom_share;
  m.doc() = "The inner loops of an allocation, compiled; see dcu/hosting/cpp. Used through dcu.hosting.compiled.";
  m.def("fill", &fill, array("a"), array("b"), array("wanted"), array("weight"), nb::arg("in_order"), array("x"),
        array("binding"), "Claims grow from x on under a x <= b, together or in order.");
  m.def("fill_near", &fill_near, array("slopes"), array("place"), array("near"), array("room"), nb::arg("margin"),
        array("at"), array("wanted"), array("weight"), nb::arg("in_order"), array("x"), array("binding"),
        "The same under near constraints with `room` at some limits, slopes by place.");
  m.def("by_limit", &by_limit, array("by_port"), array("ports"), array("starts"), array("share"), array("free"), array("out"),
        "Slopes by claims of slopes by ports.");
  m.def("powers", &powers, array("limits"), array("others"), array("now"), array("ports"), array("starts"), array("share"), array("free"), array("through"),
        array("out"), "Draws with each claim's limit fully used, in each case (n_state, n_case, n).");
  m.def("worst_case", &worst_case, array("found"), array("extra").none(), array("worst"), array("which"),
        "The worst of some cases of each constraint, and which it is.");
  define_flows(m);
  define_level(m);
  define_moves(m);
}
