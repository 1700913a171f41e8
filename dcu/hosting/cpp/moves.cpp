// What exports relieve, and which of those that may come push a voltage, compiled: what `dcu/hosting/moves.py` does in
// NumPy where this is missing. See there for what is meant and why.
//
// Nomenclature: s states, n ports, r constraints: of the first n upper limits, of the next n lower ones.
#include "share.hpp"

#include <vector>

namespace headroom_share {
namespace {

constexpr std::size_t lanes = 8;  // of an `Eight`

// Some exports, in the order of a table's columns, which puts phases together: in one state often those of one phase
// alone are unused. Stretches without any are left out; the sums are the same to the last bit.
class Exports {
 public:
  explicit Exports(std::size_t n) : watts_(n) {}

  void take(const double* unused, const Indices& order) {
    places_.clear(), some_.clear(), stretches_.clear();
    for (std::size_t l = 0; l < watts_.size(); ++l) {
      watts_[l] = static_cast<float>(unused[order(l)]);
      if (watts_[l] != 0.0f) places_.push_back(l), some_.push_back(watts_[l]);
    }
    first_ = places_.empty() ? 0 : places_.front();
    count_ = places_.empty() ? 0 : places_.back() + 1 - first_;
    few_ = places_.size() < count_ / 8;
    if (few_) {
      of_some_.resize(places_.size());
      return;
    }
    for (const std::size_t place : places_) {
      const std::size_t stretch = (place - first_) / lanes * lanes;
      if (stretch + lanes <= count_ && (stretches_.empty() || stretches_.back() != stretch)) stretches_.push_back(stretch);
    }
  }

  // Sums of the positive parts of what they move one voltage by, and of the negative ones.
  void apart(const float* row, double* up, double* down) {
    if (few_) {
      for (std::size_t e = 0; e < places_.size(); ++e) of_some_[e] = row[places_[e]];
      sum(of_some_.data(), some_.data(), some_.size(), up, down);
    } else {
      sum(row + first_, watts_.data() + first_, count_, up, down);
    }
  }

 private:
  void sum(const float* a, const float* b, std::size_t count, double* up, double* down) const {
    Eight above{}, below{};
    const auto take = [&](std::size_t at) {
      const Eight part = load<Eight>(a + at) * load<Eight>(b + at);
      above += part > 0.0f ? part : Eight{}, below += part < 0.0f ? part : Eight{};
    };
    if (few_ || stretches_.size() == count / lanes)
      for (std::size_t at = 0; at + lanes <= count; at += lanes) take(at);
    else
      for (const std::size_t at : stretches_) take(at);
    double more = 0.0, less = 0.0;
    for (std::size_t j = count / lanes * lanes; j < count; ++j) {
      const float part = a[j] * b[j];
      (part > 0.0f ? more : less) += part;
    }
    *up = total(above) + more, *down = total(below) + less;
  }

  std::vector<float> watts_, some_, of_some_;
  std::vector<std::size_t> places_, stretches_;
  std::size_t first_ = 0, count_ = 0;
  bool few_ = false;
};

void check_order(const SingleTable& rise, const Indices& order) {
  const std::size_t n = order.size();
  check(rise.shape(0) == n && rise.shape(1) == n);
  for (std::size_t l = 0; l < n; ++l) check(order(l) >= 0 && static_cast<std::size_t>(order(l)) < n);
}

// What unused exports (s, n) are missed for at all ports: the positive part of their `rise` (n, n), columns in an
// `order`, in the first n, the negative one in the next.
void relief(SingleTable rise, Indices order, Table unused, OutTable out) {
  const std::size_t n = order.size(), states = unused.shape(0);
  check_order(rise, order);
  check(unused.shape(1) == n && out.shape(0) == states && out.shape(1) == 2 * n);
  Exports exports(n);
  for (std::size_t s = 0; s < states; ++s) {
    exports.take(unused.data() + s * n, order);
    double* to = out.data() + s * 2 * n;
    for (std::size_t k = 0; k < n; ++k) {
      double up, down;
      exports.apart(rise.data() + k * n, &up, &down);
      to[k] = up, to[n + k] = -down;
    }
  }
}

// Choices of unseen exports (n), each by the first constraint that none before it is alike to: which come (most, n), what
// others may do to the constraints (most, r); how many there are.
std::size_t choices(Table by_draw, SingleTable rise, Indices order, Numbers unseen, Indices rows, Numbers sag,
                    Numbers moved_by_all, std::size_t most, double curved, double alike, OutFlagTable pushes,
                    OutTable otherwise) {
  const std::size_t n = order.size(), r = rows.size();
  check_order(rise, order);
  check(by_draw.shape(0) == n && by_draw.shape(1) == n && unseen.size() == n && sag.size() == n && r > 0);
  check(moved_by_all.size() == 2 * n && pushes.shape(0) == most && pushes.shape(1) == n);
  check(otherwise.shape(0) == most && otherwise.shape(1) == r);
  std::vector<std::uint8_t> asked(n);
  for (std::size_t k = 0; k < r; ++k) {
    check(rows(k) >= 0 && static_cast<std::size_t>(rows(k)) < 2 * n);
    asked[rows(k) % n] = 1;
  }
  std::vector<std::size_t> left(r);
  for (std::size_t k = 0; k < r; ++k) left[k] = k;
  std::vector<double> used(n), by_used(2 * n);
  Exports exports(n);
  std::size_t found = 0;
  for (; found < most && !left.empty(); ++found) {
    const std::size_t row = rows(left.front());
    const double* by = by_draw.data() + row % n * n;
    bool* comes = pushes.data() + found * n;
    for (std::size_t j = 0; j < n; ++j) comes[j] = row >= n ? by[j] > 0.0 : by[j] < 0.0, used[j] = comes[j] ? unseen(j) : 0.0;
    exports.take(used.data(), order);
    for (std::size_t k = 0; k < n; ++k) {
      if (!asked[k]) continue;
      double up, down;
      exports.apart(rise.data() + k * n, &up, &down);
      by_used[k] = up * curved, by_used[n + k] = -down * curved * sag(k);
    }
    // What exports relieve that come, and what others would push that do not: lifting one limit is relieving the other
    // one of the same voltage.
    double* to = otherwise.data() + found * r;
    for (std::size_t k = 0; k < r; ++k) {
      const std::size_t at = rows(k), other = (at + n) % (2 * n);
      const double pushed = std::max(moved_by_all(other) - by_used[other], 0.0);
      to[k] = by_used[at] + (at < n ? 1.0 : sag(at - n)) * pushed;
    }
    std::size_t kept = 0;
    for (std::size_t k = 1; k < left.size(); ++k)
      if (to[left[k]] > alike) left[kept++] = left[k];
    left.resize(kept);
  }
  return found;
}

}  // namespace

void define_moves(nb::module_& m) {
  m.def("relief", &relief, array("rise"), array("order"), array("unused"), array("out"),
        "What the unused exports would have taken off, above and below.");
  m.def("choices", &choices, array("by_draw"), array("rise"), array("order"), array("unseen"), array("rows"), array("sag"),
        array("moved_by_all"), nb::arg("most"), nb::arg("curved"), nb::arg("alike"), array("pushes"), array("otherwise"),
        "Choices of exports that push some constraints, and what others may do to these; how many there are.");
}

}  // namespace headroom_share
