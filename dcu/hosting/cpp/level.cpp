// How far limits may grow together, compiled: what `judge.Rise` of `dcu/hosting/judge.py` does in NumPy where this is
// missing. See there for what is meant.
//
// Nomenclature: m claims, r constraints.
#include "share.hpp"

#include <limits>
#include <vector>

namespace headroom_share {
namespace {

constexpr double tiny = 1e-30;  // TINY

// Along one constraint: how fast it is moved after each edge, and how far it has been moved there.
struct Way {
  std::vector<double> rate, moved;

  explicit Way(std::size_t edges) : rate(edges), moved(edges) {}

  void take(const double* slope, const double* gain, const double* edge, const std::int64_t* who, std::size_t m) {
    double fast = 0.0, far = 0.0;
    for (std::size_t e = 0; e < 2 * m; ++e) {
      const auto k = static_cast<std::size_t>(who[e]);
      if (e) far += fast * (edge[e] - edge[e - 1]);
      fast += k < m ? slope[k] * gain[k] : -(slope[k - m] * gain[k - m]);
      rate[e] = fast, moved[e] = far;
    }
  }

  // The level at which a share of all is moved.
  double level(double share, const double* edge) const {
    const double most = share * moved.back();
    std::size_t reached = 0;
    for (const double far : moved) reached += far <= most;
    const std::size_t place = std::max<std::size_t>(reached, 1) - 1;
    return edge[place] + (most - moved[place]) / std::max(rate[place], tiny);
  }
};

// The lowest level (m) of the constraints that each claim pushes by `slopes` (r, m).
void level(Table slopes, Numbers share, Numbers gain, Numbers edges, Indices order, Out out) {
  const std::size_t r = slopes.shape(0), m = slopes.shape(1);
  check(share.size() == r && gain.size() == m && edges.size() == 2 * m && order.size() == 2 * m && out.size() == m);
  for (std::size_t e = 0; e < 2 * m; ++e) check(order(e) >= 0 && static_cast<std::size_t>(order(e)) < 2 * m);
  double* to = out.data();
  std::fill_n(to, m, std::numeric_limits<double>::infinity());
  if (!m) return;
  Way way(2 * m);
  for (std::size_t row = 0; row < r; ++row) {
    const double* slope = slopes.data() + row * m;
    way.take(slope, gain.data(), edges.data(), order.data(), m);
    const double found = way.level(share(row), edges.data());
    for (std::size_t k = 0; k < m; ++k)
      if (slope[k] > 0.0) to[k] = std::min(to[k], found);
  }
}

}  // namespace

void define_level(nb::module_& m) {
  m.def("level", &level, array("slopes"), array("share"), array("gain"), array("edges"), array("order"), array("out"),
        "How far each claim may go until a share of what all move a constraint by is moved.");
}

}  // namespace headroom_share
