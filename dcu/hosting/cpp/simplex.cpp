#include "simplex.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "filling.hpp"
#include "four.hpp"

namespace headroom_share {
namespace {

constexpr double wish_met_w = 0.01;  // LP_TOLERANCE_W, TIGHT_W, TIE, PIVOT_MIN, PIVOTS_MAX of fill.py
constexpr double tight_w = 1e-4, tie = 1e-6, pivot_min = 1e-9;
constexpr int pivots_max = 500;
constexpr double scale_min = 1e-30, infinite = std::numeric_limits<double>::infinity();

using Reals = std::vector<double>;
using Places = std::vector<std::size_t>;

// Of a square matrix (n, n), in place, by elimination with the largest pivot; false if there is none.
bool invert(Reals& a, std::size_t n) {
  Reals b(n * n, 0.0);
  for (std::size_t k = 0; k < n; ++k) b[k * n + k] = 1.0;
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t at = k;
    for (std::size_t r = k + 1; r < n; ++r)
      if (std::abs(a[r * n + k]) > std::abs(a[at * n + k])) at = r;
    const double pivot = a[at * n + k];
    if (!(std::abs(pivot) > 0.0)) return false;
    for (std::size_t j = 0; j < n; ++j) {
      std::swap(a[at * n + j], a[k * n + j]), std::swap(b[at * n + j], b[k * n + j]);
      a[k * n + j] /= pivot, b[k * n + j] /= pivot;
    }
    for (std::size_t r = 0; r < n; ++r) {
      const double times = a[r * n + k];
      if (r == k || times == 0.0) continue;
      for (std::size_t j = 0; j < n; ++j) a[r * n + j] -= times * a[k * n + j], b[r * n + j] -= times * b[k * n + j];
    }
  }
  a = std::move(b);
  return true;
}

// What is violated most: a row or, as if it were one, the bound of a basic claim (`leaves`, else nothing); its slopes (m);
// by how much.
struct Broken {
  std::size_t row = 0;
  std::int64_t leaves = nothing;
  Reals slopes;
  double gap = 0.0;
};

// One programme on its way: tight rows, the basic claims that keep them tight, everybody else at a bound.
class Simplex {
 public:
  Simplex(const Rows& rows, std::size_t m, const double* low, const double* high)
      : x(high, high + m), a_(rows.of), b_(rows.most), m_(m), low_(low), high_(high), gain_(m) {
    for (std::size_t k = 0; k < m; ++k) gain_[k] = 1.0 - tie * static_cast<double>(k) / static_cast<double>(m);
  }

  // False if there is no solution, or rounding hides it.
  bool run() {
    for (int k = 0; k < pivots_max; ++k) {
      if (!solve()) return false;
      const Broken broken = most_broken();
      if (broken.gap <= tight_w) {
        for (std::size_t j = 0; j < m_; ++j) x[j] = std::min(std::max(x[j], low_[j]), high_[j]);
        return true;
      }
      if (!mend(broken)) return false;
    }
    return false;
  }

  Reals x, price;
  Places tight;

 private:
  // Basic claims from the tight rows, and the rows' prices; false if rounding hides them.
  bool solve() {
    const std::size_t t = tight.size();
    inverse_.resize(t * t), price.assign(t, 0.0);
    for (std::size_t r = 0; r < t; ++r)
      for (std::size_t k = 0; k < t; ++k) inverse_[r * t + k] = a_[tight[r]][basic_[k]];
    if (!invert(inverse_, t)) return false;
    for (const std::size_t claim : basic_) x[claim] = 0.0;
    Reals left(t);
    for (std::size_t r = 0; r < t; ++r) left[r] = b_[tight[r]] - along(a_[tight[r]], x.data(), m_);
    for (std::size_t k = 0; k < t; ++k) {
      x[basic_[k]] = along(inverse_.data() + k * t, left.data(), t);
      if (!std::isfinite(x[basic_[k]])) return false;
    }
    for (std::size_t k = 0; k < t; ++k)
      for (std::size_t r = 0; r < t; ++r) price[r] += gain_[basic_[k]] * inverse_[k * t + r];
    return true;
  }

  Broken most_broken() const {
    double by_row = -infinite, by_column = -infinite;
    std::size_t row = 0, column = 0;
    for (std::size_t r = 0; r < a_.size(); ++r) {
      if (std::find(tight.begin(), tight.end(), r) != tight.end()) continue;
      const double over = along(a_[r], x.data(), m_) - b_[r];
      if (over > by_row) by_row = over, row = r;
    }
    for (std::size_t k = 0; k < basic_.size(); ++k) {
      const std::size_t claim = basic_[k];
      const double outside = std::max(low_[claim] - x[claim], x[claim] - high_[claim]);
      if (outside > by_column) by_column = outside, column = k;
    }
    if (by_column <= by_row) return {row, nothing, Reals(a_[row], a_[row] + m_), by_row};
    if (basic_.empty()) return {};
    Broken found{row, static_cast<std::int64_t>(basic_[column]), Reals(m_, 0.0), by_column};
    found.slopes[basic_[column]] = x[basic_[column]] > high_[basic_[column]] ? 1.0 : -1.0;
    return found;
  }

  // Move the cheapest claims to their other bound until what was broken just holds; false if all are not enough.
  bool mend(const Broken& broken) {
    const std::size_t t = tight.size();
    Reals weights(t, 0.0), moved = broken.slopes;  // by which a claim moves it, basic claims following
    for (std::size_t k = 0; k < t; ++k)
      for (std::size_t r = 0; r < t; ++r) weights[r] += broken.slopes[basic_[k]] * inverse_[k * t + r];
    for (std::size_t r = 0; r < t; ++r)
      for (std::size_t j = 0; j < m_; ++j) moved[j] -= weights[r] * a_[tight[r]][j];
    for (const std::size_t claim : basic_) moved[claim] = 0.0;
    const Reals left = left_over();
    std::vector<Move> moves;
    for (std::size_t j = 0; j < m_; ++j) {
      if (!((at_high(j) ? moved[j] : -moved[j]) > pivot_min) || !(high_[j] > low_[j])) continue;
      moves.push_back({std::max(left[j] / moved[j], 0.0), std::abs(moved[j]) * (high_[j] - low_[j]), j, false});
    }
    for (std::size_t r = 0; r < t; ++r)
      if (weights[r] > pivot_min) moves.push_back({price[r] / weights[r], infinite, r, true});
    std::stable_sort(moves.begin(), moves.end(), [](const Move& one, const Move& two) { return one.when < two.when; });
    std::size_t last = 0;
    double closed = 0.0;
    for (; last < moves.size(); ++last) {
      closed += moves[last].width;
      if (closed >= broken.gap) break;
    }
    if (last == moves.size()) return false;
    if (broken.leaves == nothing) {
      tight.push_back(broken.row);
    } else {
      const std::size_t leaves = static_cast<std::size_t>(broken.leaves);
      x[leaves] = broken.slopes[leaves] > 0.0 ? high_[leaves] : low_[leaves];
      basic_.erase(std::find(basic_.begin(), basic_.end(), leaves));
    }
    for (std::size_t k = 0; k < last; ++k) x[moves[k].place] = at_high(moves[k].place) ? low_[moves[k].place] : high_[moves[k].place];
    if (moves[last].of_row) tight.erase(tight.begin() + moves[last].place);
    else basic_.push_back(moves[last].place);
    return true;
  }

  // What may be moved: a claim to its other bound, or a row that becomes loose; at which price, and how much it closes.
  struct Move {
    double when, width;
    std::size_t place;
    bool of_row;
  };

  bool at_high(std::size_t claim) const { return x[claim] >= high_[claim]; }

  // What each claim gains beyond the prices of what it uses.
  Reals left_over() const {
    Reals found = gain_;
    for (std::size_t r = 0; r < tight.size(); ++r)
      for (std::size_t j = 0; j < m_; ++j) found[j] -= price[r] * a_[tight[r]][j];
    return found;
  }

  const std::vector<const double*>& a_;
  const Reals& b_;
  std::size_t m_;
  const double *low_, *high_;
  Reals gain_, inverse_;
  Places basic_;
};

// What a row comes to at `low`, and how far it may be pushed from there, or (`sign` -1) relieved.
double reach(const double* a, std::size_t m, const double* low, const double* high, double sign) {
  double found = 0.0;
  for (std::size_t k = 0; k < m; ++k) found += sign * std::max(sign * a[k], 0.0) * (high[k] - low[k]);
  return found;
}

// Of all magnitudes, four at a time.
double largest(const double* a, std::size_t m) {
  Four most{};
  std::size_t j = 0;
  for (; j + 4 <= m; j += 4) {
    const Four value = load<Four>(a + j), size = value < 0.0 ? -value : value;
    most = most < size ? size : most;
  }
  double found = std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
  for (; j < m; ++j) found = std::max(found, std::abs(a[j]));
  return found;
}

// What keeps each claim from its wish: of the tight rows that it pushes the dearest.
void name(const Simplex& solved, const Rows& rows, const Places& names, std::size_t m, const double* high,
          std::int64_t* binding) {
  for (std::size_t k = 0; k < m; ++k) {
    if (!(solved.x[k] < high[k] - wish_met_w)) continue;
    double dearest = 0.0;
    for (std::size_t r = 0; r < solved.tight.size(); ++r) {
      const double cost = solved.price[r] * std::max(rows.of[solved.tight[r]][k], 0.0);
      if (cost > dearest) dearest = cost, binding[k] = static_cast<std::int64_t>(names[solved.tight[r]]);
    }
  }
}

}  // namespace

void fill_most(const Rows& rows, std::size_t m, const double* low, const double* high, double* x, std::int64_t* binding) {
  std::fill_n(binding, m, nothing);
  Places may;  // the others have room for all wishes
  Reals at_low;
  for (std::size_t r = 0; r < rows.of.size(); ++r) {
    const double begins = along(rows.of[r], low, m);
    if (begins + reach(rows.of[r], m, low, high, 1.0) >= rows.most[r]) may.push_back(r), at_low.push_back(begins);
  }
  std::copy_n(high, m, x);
  if (may.empty()) return;
  // A constraint broken at the start binds only if relief from others can mend it; else those who push it stay.
  Reals top(high, high + m), slopes(may.size() * m);
  Rows scaled;
  for (std::size_t k = 0; k < may.size(); ++k) {
    const double *a = rows.of[may[k]], most = rows.most[may[k]];
    const bool lost = at_low[k] > most && at_low[k] + reach(a, m, low, high, -1.0) > most;
    const double scale = std::max(scale_min, largest(a, m));  // [W] of the claim that pushes most
    double* to = slopes.data() + k * m;
    for (std::size_t j = 0; j < m; ++j) to[j] = a[j] / scale;
    for (std::size_t j = 0; j < m && lost; ++j)
      if (a[j] > push_min) top[j] = low[j];
    scaled.of.push_back(to), scaled.most.push_back((lost ? infinite : most) / scale);
  }
  Simplex simplex(scaled, m, low, top.data());
  if (simplex.run()) {
    std::copy(simplex.x.begin(), simplex.x.end(), x);
    name(simplex, scaled, may, m, top.data(), binding);
    return;
  }
  const Reals alike(m, 1.0);
  std::copy_n(low, m, x);
  Filling filling(m, top.data(), alike.data(), x, binding);
  for (std::size_t k = 0; k < may.size(); ++k)
    filling.add(may[k], scaled.of[k], scaled.most[k] - along(scaled.of[k], low, m));
  filling.together();
}

}  // namespace headroom_share
