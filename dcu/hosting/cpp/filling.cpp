#include "filling.hpp"

#include <algorithm>
#include <numeric>

#include "four.hpp"

namespace headroom_share {
namespace {

constexpr int rounds_max = 6;  // ROUNDS_MAX, WORTH_W, WORTH_SHARE of fill.py
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

}  // namespace

double along(const double* a, const double* x, std::size_t m) {
  Four sum{};
  std::size_t k = 0;
  for (; k + 4 <= m; k += 4) sum += load<Four>(a + k) * load<Four>(x + k);
  double rest = 0.0;
  for (; k < m; ++k) rest += a[k] * x[k];
  return total(sum) + rest;
}

Filling::Filling(std::size_t m, const double* wanted, const double* weight, double* x, std::int64_t* binding)
    : way_(m), wanted_(wanted), weight_(weight), m_(m), x_(x), binding_(binding) {
  for (std::size_t k = 0; k < m; ++k) way_[k] = wanted[k] - x[k];
}

void Filling::add(std::size_t row, const double* a, double left) {
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

void Filling::together() {
  begin();
  for (int k = 0; k < rounds_max; ++k) {
    const double before = sum();
    round();
    if (stuck() || !pays(before)) break;
  }
  end();
}

void Filling::in_order() {
  begin();
  for (int k = 0; k < rounds_max; ++k) {
    const double before = sum();
    round_in_order();
    if (!pays(before)) break;
  }
  end();
}

void Filling::begin() {
  c_ = rows_.size(), by_claim_.reset(new double[m_ * c_]);  // all of it is written
  constexpr std::size_t block = 8;  // rows whose numbers for one claim fill a line of the cache
  for (std::size_t first = 0; first < c_; first += block)
    for (std::size_t k = 0, last = std::min(first + block, c_); k < m_; ++k)
      for (std::size_t r = first; r < last; ++r) by_claim_[k * c_ + r] = of_[r][k];
}

void Filling::end() {
  for (std::size_t k = 0; k < m_; ++k) {
    if (!(x_[k] < wanted_[k])) binding_[k] = nothing;
    if (binding_[k] != nothing) binding_[k] = static_cast<std::int64_t>(rows_[binding_[k]]);
  }
}

bool Filling::pays(double before) const { return !(sum() - before < std::max(worth_w, worth_share * before)); }

double Filling::sum() const { return std::accumulate(x_, x_ + m_, 0.0); }

// Whether whoever wants more pushes a constraint that has nothing left.
bool Filling::stuck() const {
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

void Filling::leave(std::size_t k, double* __restrict rate) const {
  const double* __restrict column = row_of(k);
  const double w = weight_[k];
  for (std::size_t r = 0; r < c_; ++r) rate[r] -= w * column[r];
}

void Filling::round() {
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

void Filling::round_in_order() {
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

}  // namespace headroom_share
