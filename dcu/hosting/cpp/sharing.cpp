// One allocation on its way, compiled: what `_Sharing` of `dcu/hosting/allocate.py` does in NumPy where this is missing or
// doubt grows with the distance from now. Power flows and slopes are the prospect's: it is asked for them by functions that
// take what stands in arrays which both see. See there for what is meant and why; the constants are its own.
//
// Nomenclature: c constraints, m claims, n ports; limits (m) [W], slopes (k, m) [1/W], excess and room (c).
#include "share.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "filling.hpp"
#include "simplex.hpp"

namespace headroom_share {
namespace {

using Reals = std::vector<double>;
using Places = std::vector<std::int64_t>;
using Flagged = std::vector<std::uint8_t>;

constexpr double resolution_w = 1.0;          // RESOLUTION_W
constexpr int flows_max = 12, chord = 2;      // FLOWS_MAX, CHORD
constexpr int halvings_max = 20;              // HALVINGS_MAX
constexpr std::size_t rows_each = 24;         // ROWS_EACH
constexpr double bend_max = 1.25;             // BEND_MAX
constexpr double plain_share = 0.2;           // PLAIN_SHARE
constexpr double guess_share = 0.2;           // GUESS_SHARE
constexpr double rough_most = 5e-4;           // ROUGH
constexpr double slack = 1e-6, spare = 4e-6;  // SLACK, SPARE
constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr std::int64_t no_flow = -2;          // NO_FLOW, among the constraints that may be exceeded
constexpr std::int64_t too_little = -2;       // among those that bind: less than the minimum, and so nothing

enum class Policy { together = 0, in_order = 1, most = 2 };

bool all_finite(const Reals& x) { return std::all_of(x.begin(), x.end(), [](double value) { return std::isfinite(value); }); }

bool any(const Flagged& flags) { return std::any_of(flags.begin(), flags.end(), [](std::uint8_t flag) { return flag; }); }

double furthest(const Reals& one, const Reals& two) {
  double found = 0.0;
  for (std::size_t k = 0; k < one.size(); ++k) found = std::max(found, std::abs(one[k] - two[k]));
  return found;
}

// `_worst`: the constraints that are over, `rows_each` at most.
Flagged worst(const Reals& over) {
  Flagged found(over.size());
  Reals above;
  for (std::size_t r = 0; r < over.size(); ++r)
    if ((found[r] = over[r] > 0.0)) above.push_back(over[r]);
  if (above.size() <= rows_each) return found;
  std::nth_element(above.begin(), above.begin() + (rows_each - 1), above.end(), std::greater<>());
  const double least = above[rows_each - 1];
  for (std::size_t r = 0; r < over.size(); ++r) found[r] = found[r] && over[r] >= least;
  return found;
}

// Claims as they stand, and how they lie on the ports.
struct Wishes {
  Numbers nominal, wanted, minimum, least, weight;
  Claims onto;
  IndexTable through;

  std::size_t count() const { return nominal.size(); }
};

// What both sides see: states that are asked for (cases, n) and what of their excess is small enough (1 or cases, c); some
// constraints and the case of each (c), whose slopes are asked for at a state (cases, n).
struct Seen {
  OutTable states, enough, at;
  OutIndices rows, cases;
};

// What the prospect is asked, by what is seen.
using States = nb::typed<nb::callable, nb::object()>;
using First = nb::typed<nb::callable, nb::object(std::size_t)>;
struct Prospect {
  States excess, guess;
  First slopes, either_way;
};

Table answer(const nb::object& found, std::size_t rows, std::size_t columns) {
  Table table;
  if (!nb::try_cast(found, table) || table.shape(0) != rows || table.shape(1) != columns)
    throw std::invalid_argument("a prospect's answer that does not fit the question");
  return table;
}

// `_Slopes`: by claim at one state, each constraint's asked for once, in the case that exceeds it most.
class Slopes {
 public:
  Slopes(std::size_t c, std::size_t m) : m_(m), place_(c, nothing) {}

  const double* of(std::size_t row) const { return found_.data() + place_[row] * m_; }

  void begin(Seen& seen, const Places& cases) {
    rows_.clear(), found_.clear(), cases_ = cases;
    std::fill(place_.begin(), place_.end(), nothing);
    std::copy_n(seen.states.data(), seen.states.size(), seen.at.data());
  }

  void know(Seen& seen, const Prospect& prospect, const Flagged& wanted) {
    std::size_t count = 0;
    for (std::size_t r = 0; r < wanted.size(); ++r) {
      if (!wanted[r] || place_[r] != nothing) continue;
      place_[r] = static_cast<std::int64_t>(rows_.size()), rows_.push_back(r);
      seen.rows(count) = static_cast<std::int64_t>(r), seen.cases(count) = cases_[r], ++count;
    }
    if (!count) return;
    const Table more = answer(prospect.slopes(count), count, m_);
    found_.insert(found_.end(), more.data(), more.data() + count * m_);
  }

  // Make those that are known those of the chord: claims have moved (m), constraints changed (c).
  void bend(const Reals& moved, const Reals& change) {
    Reals far(m_), size(m_);
    for (std::size_t k = 0; k < m_; ++k) far[k] = std::abs(moved[k]);
    for (std::size_t at = 0; at < rows_.size(); ++at) {
      double* a = found_.data() + at * m_;
      for (std::size_t k = 0; k < m_; ++k) size[k] = std::abs(a[k]);
      const double expected = along(a, moved.data(), m_);
      if (!(std::abs(expected) > plain_share * along(size.data(), far.data(), m_))) continue;
      const double times = std::min(std::max(change[rows_[at]] / expected, 1.0 / bend_max), bend_max);
      for (std::size_t k = 0; k < m_; ++k) a[k] *= times;
    }
  }

 private:
  std::size_t m_;
  Places place_, cases_;
  std::vector<std::size_t> rows_;
  Reals found_;
};

// Limits (m), and the constraint that keeps each from more, or nothing.
struct Filled {
  Reals limits;
  Places binding;
};

class Sharing {
 public:
  Sharing(Numbers nominal, Numbers wanted, Numbers minimum, Numbers least, Numbers weight, Indices ports, Indices starts,
          Numbers share, Flags free, IndexTable through, Table others, Numbers now, std::optional<Table> missing,
          OutTable states, OutTable at, OutTable enough, OutIndices rows, OutIndices cases)
      : wishes_{nominal, wanted, minimum, least, weight, Claims(ports, starts, share, free, now.size()), through},
        ports_(ports), starts_(starts), share_(share), free_(free), others_(others), now_(now),
        seen_{states, enough, at, rows, cases}, c_(rows.size()), m_(nominal.size()), known_(c_, m_) {
    const std::size_t n = now.size(), many = states.shape(0);
    check(wanted.size() == m_ && minimum.size() == m_ && least.size() == m_ && weight.size() == m_);
    check(wishes_.onto.count == m_ && through.shape(1) == m_ && through.shape(0) > 0 && many > 0 && m_ > 0);
    check(others.shape(1) == n && (others.shape(0) == many || others.shape(0) == 1) && states.shape(1) == n);
    check(at.shape(0) == many && at.shape(1) == n && cases.size() == c_ && enough.shape(1) == c_);
    for (std::size_t k = 0; k < m_; ++k) {
      const bool in_order = 0.0 <= nominal(k) && nominal(k) <= wanted(k) && minimum(k) <= wanted(k);
      if (!in_order || !(wanted(k) < infinite)) throw std::invalid_argument("limits of a claim that are not in order");
    }
    take_missing(missing);
    check(enough.shape(0) == (extra_.empty() ? 1 : many));
    most_.assign(wanted.data(), wanted.data() + m_);
    out_.assign(m_, 0), frozen_.assign(m_, nothing), case_.assign(c_, 0);
  }

  // The constraint that the nominal limits exceed most, and the power flows it took.
  std::pair<std::int64_t, int> run(States excess, States guess, First slopes, First either_way, int policy, bool rough,
                                   Out limits, OutIndices binding, Out floor) {
    check(limits.size() == m_ && binding.size() == m_ && floor.size() == c_ && 0 <= policy && policy <= 2 && !flows_);
    prospect_ = Prospect{excess, guess, slopes, either_way};
    policy_ = static_cast<Policy>(policy), rough_ = rough;
    const Reals nominal(wishes_.nominal.data(), wishes_.nominal.data() + m_), at_nominal = this->excess(nominal);
    if (!all_finite(at_nominal)) {
      for (std::size_t r = 0; r < c_; ++r) floor(r) = std::max(at_nominal[r], 0.0);
      std::copy_n(nominal.data(), m_, limits.data());
      return {no_flow, flows_};
    }
    const std::int64_t exceeded = begin(at_nominal);
    Filled filled;
    const Reals best = steps(nominal, at_nominal, filled);
    std::copy_n(best.data(), m_, limits.data());
    for (std::size_t r = 0; r < c_; ++r) floor(r) = std::isfinite(limit_[r]) ? limit_[r] : std::max(at_nominal[r], 0.0);
    name(filled, best, binding.data());
    prospect_ = {};
    return {exceeded, flows_};
  }

 private:
  // What each constraint must stay below its limit in all cases (c), and how much further in each.
  void take_missing(const std::optional<Table>& missing) {
    limit_.assign(c_, -0.0);
    if (!missing) return;
    const std::size_t many = missing->shape(0);
    check(missing->shape(1) == c_ && (many == 1 || many == seen_.states.shape(0)));
    const double* from = missing->data();
    for (std::size_t r = 0; r < c_; ++r) {
      double least = from[r];
      for (std::size_t s = 1; s < many; ++s) least = std::min(least, from[s * c_ + r]);
      limit_[r] = -least;
    }
    if (many == 1) return;
    extra_.resize(many * c_);
    for (std::size_t s = 0; s < many; ++s)
      for (std::size_t r = 0; r < c_; ++r) extra_[s * c_ + r] = from[s * c_ + r] + limit_[r];
  }

  // Which the nominal limits alone exceed; the one that they exceed most, or nothing.
  std::int64_t begin(const Reals& at_nominal) {
    hot_.resize(c_);
    for (std::size_t r = 0; r < c_; ++r) hot_[r] = at_nominal[r] > limit_[r];
    near_ = hot_;
    known_.begin(seen_, case_);
    const auto most = std::max_element(at_nominal.begin(), at_nominal.end());
    return any(hot_) && most != at_nominal.end() && *most > 0.0 ? most - at_nominal.begin() : nothing;
  }

  // Linear steps, each measured, until what binds has nothing left; or the way back from where they led.
  Reals steps(const Reals& nominal, const Reals& at_nominal, Filled& filled) {
    Reals x = nominal, best = nominal;
    bool good = false;
    filled = first(nominal, at_nominal);
    while (flows_ < flows_max) {
      x = filled.limits, good = false;
      const Reals here = excess(x);
      if (!all_finite(here)) break;
      take_in(worst(minus(here, limit_)));
      if (flows_ == chord) known_.bend(minus(x, nominal), minus(here, at_nominal));
      else known_.begin(seen_, case_);
      const bool lost = give_up(x, here, at_nominal);
      good = within(here);
      if (good) best = x;
      if (good && !lost && (rough_ || full(filled, here))) break;
      filled = fill(x, minus(limit_, here));
      if (good && !lost && furthest(filled.limits, x) <= resolution_w) break;
    }
    return good ? best : back(best, x);
  }

  // `_first`: where to begin, linear about a start, constraints taken in until the guess breaks no more.
  Filled first(const Reals& start, const Reals& here) {
    Filled filled{Reals(wishes_.wanted.data(), wishes_.wanted.data() + m_), Places(m_, nothing)};
    const Reals room = minus(limit_, here);
    Reals over(c_);
    Places which(c_);
    for (int k = 0; k < flows_max; ++k) {
      use(filled.limits);
      look_for(k == 0, here);
      worst_of_cases(prospect_.guess(), over.data(), which.data());
      for (std::size_t r = 0; r < c_; ++r) {
        const double rough = over[r];
        over[r] -= limit_[r];
        if (k == 0) over[r] += guess_share * std::max(rough - here[r], 0.0);
        else if (near_[r]) over[r] = -infinite;
      }
      const Flagged broken = worst(over);
      double most = 0.0;
      for (std::size_t r = 0; r < c_; ++r)
        if (broken[r]) most = std::max(most, over[r]);
      if (k > 0 && most <= rough_most) break;
      take_in(broken);
      if (!any(near_)) break;
      filled = fill(start, room);
    }
    return filled;
  }

  // What a guess need not be exact below.
  void look_for(bool first, const Reals& here) {
    double* enough = seen_.enough.data();
    for (std::size_t s = 0; s < seen_.enough.shape(0); ++s)
      for (std::size_t r = 0; r < c_; ++r) {
        double found = near_[r] ? infinite : limit_[r];
        if (first) found = std::min(limit_[r], (limit_[r] + guess_share * here[r]) / (1.0 + guess_share));
        enough[s * c_ + r] = extra_.empty() ? found : found - extra_[s * c_ + r];
      }
  }

  // The policy under the near constraints, linear about `at`; claims below their minimum leave, the neediest first.
  Filled fill(const Reals& at, const Reals& room) {
    Flagged some(c_);
    for (std::size_t r = 0; r < c_; ++r) some[r] = near_[r] && std::isfinite(room[r]);
    known_.know(seen_, prospect_, some);
    while (true) {
      Filled filled = policy_ == Policy::most ? fill_to_most(at, room, some) : fill_up(at, room, some);
      const std::int64_t leaves = neediest(filled.limits);
      if (leaves == nothing) return filled;
      out_[leaves] = 1, most_[leaves] = wishes_.nominal(leaves);
    }
  }

  std::int64_t neediest(const Reals& limits) const {
    std::int64_t found = nothing;
    double largest = resolution_w;
    for (std::size_t k = 0; k < m_; ++k) {
      const double lack = wishes_.minimum(k) - limits[k];
      if (!(lack > largest) || !(most_[k] > wishes_.nominal(k)) || !(wishes_.nominal(k) < wishes_.minimum(k))) continue;
      found = static_cast<std::int64_t>(k), largest = lack;
    }
    return found;
  }

  Filled fill_up(const Reals& at, const Reals& room, const Flagged& some) const {
    Filled filled{Reals(wishes_.nominal.data(), wishes_.nominal.data() + m_), Places(m_, nothing)};
    Filling filling(m_, most_.data(), wishes_.weight.data(), filled.limits.data(), filled.binding.data());
    const Reals way = minus(at, filled.limits);
    const bool moved = std::any_of(way.begin(), way.end(), [](double watts) { return watts != 0.0; });
    for (std::size_t r = 0; r < c_; ++r)
      if (some[r]) filling.add(r, known_.of(r), room[r] - slack + (moved ? along(known_.of(r), way.data(), m_) : 0.0));
    policy_ == Policy::in_order ? filling.in_order() : filling.together();
    return filled;
  }

  Filled fill_to_most(const Reals& at, const Reals& room, const Flagged& some) const {
    Filled filled{Reals(m_), Places(m_, nothing)};
    Rows rows;
    Places names;
    for (std::size_t r = 0; r < c_; ++r) {
      if (!some[r]) continue;
      rows.of.push_back(known_.of(r)), names.push_back(static_cast<std::int64_t>(r));
      rows.most.push_back(room[r] - slack + along(known_.of(r), at.data(), m_));
    }
    fill_most(rows, m_, wishes_.nominal.data(), most_.data(), filled.limits.data(), filled.binding.data());
    for (std::int64_t& row : filled.binding)
      if (row != nothing) row = names[row];
    return filled;
  }

  // `_give_up`: constraints that nobody can bring within their limit; who pushes them stays at the nominal limit.
  bool give_up(const Reals& at, const Reals& here, const Reals& borne) {
    Flagged rows(c_);
    for (std::size_t r = 0; r < c_; ++r) rows[r] = hot_[r] && here[r] > limit_[r];
    if (!any(rows)) return false;
    known_.know(seen_, prospect_, rows);
    std::vector<std::size_t> moved, loose;
    for (std::size_t k = 0; k < m_; ++k) {
      if (at[k] > wishes_.nominal(k) + resolution_w) moved.push_back(k);
      if (frozen_[k] == nothing) loose.push_back(k);
    }
    bool lost = false;
    for (std::size_t r = 0; r < c_; ++r) {
      if (!rows[r]) continue;
      const double* a = known_.of(r);
      const auto pushes = [a](std::size_t k) { return a[k] > push_min; };
      if (std::any_of(moved.begin(), moved.end(), pushes)) continue;
      std::size_t kept = 0;
      for (const std::size_t k : loose) {
        if (pushes(k)) frozen_[k] = static_cast<std::int64_t>(r), most_[k] = wishes_.nominal(k);
        else loose[kept++] = k;
      }
      loose.resize(kept);
      // A current that is too much one way, pushed by nobody, may become too much the other way.
      const bool pushed = std::any_of(a, a + m_, [](double slope) { return slope > push_min; });
      const bool either_way = !pushed && nb::cast<bool>(prospect_.either_way(r));
      limit_[r] = either_way ? borne[r] : infinite;
      lost = true;
    }
    return lost;
  }

  // Whether what keeps claims from more has nothing left to give: another step would not move them.
  bool full(const Filled& filled, const Reals& here) const {
    return std::all_of(filled.binding.begin(), filled.binding.end(), [&](std::int64_t row) {
      return row == nothing || here[row] >= limit_[row] - spare;
    });
  }

  bool within(const Reals& here) const {
    for (std::size_t r = 0; r < c_; ++r)
      if (!(here[r] <= limit_[r])) return false;
    return true;
  }

  // The furthest point found between a good and a bad one, by halving.
  Reals back(Reals good, Reals bad) {
    for (int k = 0; k < halvings_max && !(furthest(bad, good) <= resolution_w); ++k) {
      Reals middle(m_);
      for (std::size_t j = 0; j < m_; ++j) middle[j] = (good[j] + bad[j]) / 2.0;
      (within(excess(middle)) ? good : bad) = middle;
    }
    return good;
  }

  void name(const Filled& filled, const Reals& limits, std::int64_t* to) const {
    for (std::size_t k = 0; k < m_; ++k) {
      to[k] = limits[k] >= wishes_.wanted(k) - resolution_w ? nothing : filled.binding[k];
      if (out_[k]) to[k] = too_little;
      if (frozen_[k] != nothing) to[k] = frozen_[k];
    }
  }

  // Draws in each case with each limit fully used, or what is exported anyhow.
  void use(const Reals& limits) {
    Reals used(m_);
    for (std::size_t k = 0; k < m_; ++k) used[k] = std::max(limits[k], wishes_.least(k));
    const std::size_t n = now_.size(), ways = wishes_.through.shape(0);
    for (std::size_t s = 0; s < seen_.states.shape(0); ++s) {
      double* to = seen_.states.data() + s * n;
      std::copy_n(others_.data() + (others_.shape(0) == 1 ? 0 : s) * n, n, to);
      use_all(wishes_.onto, used.data(), now_.data(), wishes_.through.data() + std::min(s, ways - 1) * m_, to);
    }
  }

  Reals excess(const Reals& limits) {
    Reals found(c_);
    ++flows_;
    use(limits);
    worst_of_cases(prospect_.excess(), found.data(), case_.data());
    return found;
  }

  void worst_of_cases(const nb::object& found, double* to, std::int64_t* which) const {
    const std::size_t many = seen_.states.shape(0);
    worst_of(answer(found, many, c_).data(), extra_.empty() ? nullptr : extra_.data(), many, c_, to, which);
  }

  void take_in(const Flagged& rows) {
    for (std::size_t r = 0; r < c_; ++r) near_[r] = near_[r] || rows[r];
  }

  static Reals minus(const Reals& one, const Reals& two) {
    Reals found(one.size());
    for (std::size_t k = 0; k < one.size(); ++k) found[k] = one[k] - two[k];
    return found;
  }

  Wishes wishes_;
  Indices ports_, starts_;  // what `wishes_.onto` points at
  Numbers share_;
  Flags free_;
  Table others_;
  Numbers now_;
  Seen seen_;
  std::size_t c_, m_;
  Slopes known_;
  Prospect prospect_;
  Policy policy_ = Policy::together;
  bool rough_ = false;
  int flows_ = 0;
  Reals extra_;          // what each case must stay further below the limits than the others (cases, c)
  Reals limit_;          // how far each constraint may go (c); infinite where it has been given up
  Flagged hot_, near_;   // which the nominal limits alone exceed, which the linear steps look at (c)
  Places case_;          // in which each was exceeded most (c)
  Reals most_;           // what is wanted, or the nominal limit of who stays at it: out or frozen (m)
  Flagged out_;          // claims that got less than their minimum, and so nothing (m)
  Places frozen_;        // what nobody can bring within its limit and a claim pushes (m)
};

}  // namespace

void define_sharing(nb::module_& m) {
  nb::class_<Sharing>(m, "Sharing", "One allocation on its way, where doubt does not grow with the distance from now.")
      .def(nb::init<Numbers, Numbers, Numbers, Numbers, Numbers, Indices, Indices, Numbers, Flags, IndexTable, Table, Numbers,
                    std::optional<Table>, OutTable, OutTable, OutTable, OutIndices, OutIndices>(),
           array("nominal"), array("wanted"), array("minimum"), array("least"), array("weight"), array("ports"), array("starts"),
           array("share"), array("free"), array("through"), array("others"), array("now"), array("missing").none(),
           array("states"), array("at"), array("enough"), array("rows"), array("cases"))
      .def("run", &Sharing::run, nb::arg("excess"), nb::arg("guess"), nb::arg("slopes"), nb::arg("either_way"),
           nb::arg("policy"), nb::arg("rough"), array("limits"), array("binding"), array("floor"),
           "The constraint that the nominal limits exceed most (-1: none, -2: no power flow), and the power flows it took.");
}

}  // namespace headroom_share
