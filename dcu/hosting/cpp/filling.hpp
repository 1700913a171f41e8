// Progressive filling under linear constraints: `_Filling` and `fill_in_order` of `dcu/hosting/fill.py`, claim by claim
// and without the arrays in between.
//
// Nomenclature: c constraints, m claims; `by_claim` (m, c) [1/W], slack (c), limits x [W] (m).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace headroom_share {

constexpr double push_min = 1e-9;     // PUSH_MIN of fill.py
constexpr std::int64_t nothing = -1;  // FREE of fill.py

// What some slopes (m) make of some limits (m).
double along(const double* a, const double* x, std::size_t m);

// Claims (m) that grow from `x` on; what others relieve on the way may let some go on, so that it is repeated while it pays.
class Filling {
 public:
  Filling(std::size_t m, const double* wanted, const double* weight, double* x, std::int64_t* binding);

  // One more constraint: slopes (m), how much is `left` of it at x.
  void add(std::size_t row, const double* a, double left);

  // `fill_together`: max-min fair in units of the weights. Everybody grows until nobody moves.
  void together();

  // `fill_in_order`: each as far as it goes, in the order of arrival.
  void in_order();

 private:
  void begin();
  void end();
  bool pays(double before) const;
  double sum() const;
  bool stuck() const;
  void round();
  void round_in_order();
  void leave(std::size_t k, double* rate) const;
  const double* row_of(std::size_t k) const { return by_claim_.get() + k * c_; }

  std::vector<std::size_t> rows_;  // names of those that may bind
  std::vector<const double*> of_;  // their slopes
  std::unique_ptr<double[]> by_claim_;
  std::vector<double> slack_, way_;
  const double *wanted_, *weight_;
  std::size_t m_, c_ = 0;
  double* x_;
  std::int64_t* binding_;
};

}  // namespace headroom_share
