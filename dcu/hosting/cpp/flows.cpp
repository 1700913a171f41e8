// How far the constraints of a state are exceeded, compiled: what `Outlook` of `dcu/hosting/headroom.py` and `Flows` of
// `flows.py` do in NumPy where this is missing. See there for what is meant and why; the constants are theirs.
//
// Nomenclature: s states, n ports, k rows linear in the currents (rated currents, then unbalances), b buses of these;
// constraints: n upper voltages, n lower ones, k rows.
#include "share.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace headroom_share {
namespace {

constexpr double near_share = 0.5;  // NEAR
constexpr int directions = 6;       // DIRECTIONS
constexpr int turns = 3;            // TURNS
constexpr double curved = 0.1;      // CURVED
constexpr double moved_max = 0.5;   // of a voltage: beyond it no current is foreseen
constexpr double tiny = 1e-12;      // of a value whose direction is asked

double size(Complex x) { return std::sqrt(x.real() * x.real() + x.imag() * x.imag()); }

Complex times(Complex a, Complex b) {  // without the C standard's care for infinities
  return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

Complex towards(Complex value) { return std::conj(value) / std::max(size(value), tiny); }

const double* reals(const Complex* x) { return reinterpret_cast<const double*>(x); }
double* reals(Complex* x) { return reinterpret_cast<double*>(x); }

// Magnitudes of some values.
void sizes(const Complex* x, std::size_t n, double* __restrict to) {
  const double* parts = reals(x);
  for (std::size_t j = 0; j < n; ++j)
    to[j] = std::sqrt(parts[2 * j] * parts[2 * j] + parts[2 * j + 1] * parts[2 * j + 1]);
}

// Products of two values, the second one over the square of its magnitude.
void over_square(const Complex* a, const Complex* b, const double* size, std::size_t n, Complex* found) {
  const double *x = reals(a), *y = reals(b);
  double* __restrict to = reals(found);
  for (std::size_t j = 0; j < n; ++j) {
    const double square = size[j] * size[j];
    to[2 * j] = (x[2 * j] * y[2 * j] - x[2 * j + 1] * y[2 * j + 1]) / square;
    to[2 * j + 1] = (x[2 * j] * y[2 * j + 1] + x[2 * j + 1] * y[2 * j]) / square;
  }
}

double product(const double* a, const double* b, std::size_t n) {
  Four sum{};
  std::size_t j = 0;
  for (; j + 4 <= n; j += 4) sum += load<Four>(a + j) * load<Four>(b + j);
  double rest = 0.0;
  for (; j < n; ++j) rest += a[j] * b[j];
  return total(sum) + rest;
}

Complex product(const Complex* a, const Complex* b, std::size_t n) {
  const double *x = reinterpret_cast<const double*>(a), *y = reinterpret_cast<const double*>(b);
  Four straight{}, crossed{};  // real parts with real ones, imaginary with imaginary; real with imaginary
  std::size_t j = 0;
  for (; j + 4 <= 2 * n; j += 4) {
    const Four left = load<Four>(x + j), right = load<Four>(y + j);
    const Four turned{right[1], right[0], right[3], right[2]};
    straight += left * right, crossed += left * turned;
  }
  double re = (straight[0] + straight[2]) - (straight[1] + straight[3]);
  double im = (crossed[0] + crossed[2]) + (crossed[1] + crossed[3]);
  for (; j < 2 * n; j += 2) {
    re += x[j] * y[j] - x[j + 1] * y[j + 1];
    im += x[j] * y[j + 1] + x[j + 1] * y[j];
  }
  return {re, im};
}

// Exports that may come or not, as parts of a row's value.
struct Parts {
  std::vector<double> re, im;

  explicit Parts(std::size_t m) : re(m), im(m) {}

  bool pushes(std::size_t e, Complex turn) const { return re[e] * turn.real() - im[e] * turn.imag() > 0.0; }

  // Of those that push in a direction.
  Complex sum(Complex turn) const {
    Four up{}, left{};
    const double *a = re.data(), *b = im.data(), tr = turn.real(), ti = turn.imag();
    const std::size_t m = re.size();
    std::size_t e = 0;
    for (; e + 4 <= m; e += 4) {
      const Four x = load<Four>(a + e), y = load<Four>(b + e);
      const auto on = x * tr - y * ti > 0.0;
      up += on ? x : Four{}, left += on ? y : Four{};
    }
    Complex rest{};
    for (; e < m; ++e)
      if (pushes(e, turn)) rest += Complex{a[e], b[e]};
    return rest + Complex{total(up), total(left)};
  }
};

// Of one row: its value with the exports that make it largest, which these are (by place among the unseen), and a bound
// of its magnitude.
struct Worst {
  Complex value;
  std::vector<std::uint8_t> used;
  double bound;
};

class Flows {
 public:
  Flows(Numbers over_v, Numbers under_v, Numbers u_model_v, Numbers u_nominal_v, double model_error, ComplexTable z_ohm,
        Complexes open, ComplexTable h, Table reach, Numbers i_max_a, double vuf_max, Complexes forward_open_v,
        ComplexTable forward_h, Table moved, Table moved_by_group, Indices group, Numbers p_now_w, Complexes u_now_v, Complexes i_now_a, Numbers blur,
        double wrong)
      : over_v_(over_v), under_v_(under_v), u_model_v_(u_model_v), u_nominal_v_(u_nominal_v), z_ohm_(z_ohm), open_(open),
        h_(h), reach_(reach), i_max_a_(i_max_a), forward_open_v_(forward_open_v), forward_h_(forward_h), moved_(moved),
        moved_by_group_(moved_by_group), group_(group), p_now_w_(p_now_w), i_now_a_(i_now_a), blur_(blur), model_error_(model_error), vuf_max_(vuf_max),
        wrong_(wrong), n_(p_now_w.size()), k_(open.size()) {
    const std::size_t n = n_, b = forward_open_v.size();
    check(over_v.size() == n && under_v.size() == n && u_model_v.size() == n && u_nominal_v.size() == n);
    check(z_ohm.shape(0) == n && z_ohm.shape(1) == n && u_now_v.size() == n && i_now_a.size() == n);
    check(h.shape(0) == k_ && h.shape(1) == n && reach.shape(0) == k_ && reach.shape(1) == n && blur.size() == k_);
    check(i_max_a.size() + b == k_ && forward_h.shape(0) == b && forward_h.shape(1) == n);
    if (k_) check(moved.shape(0) == n && moved.shape(1) == n && moved_by_group.shape(1) == n && group.size() == n);
    for (std::size_t j = 0; j < group.size(); ++j)
      check(group(j) >= 0 && static_cast<std::size_t>(group(j)) < moved_by_group.shape(0));
    turned_.reserve(n);
    for (std::size_t j = 0; j < n; ++j) turned_.push_back(times(i_now_a(j), std::conj(u_now_v(j))));
  }

  // Of some states; where a bound of a row is not above `enough` (s or 1, 2 n + k), it will do.
  void excess(Table p_w, ComplexTable u_v, ComplexTable i_a, std::optional<Table> enough, OutTable out) const {
    const std::size_t states = p_w.shape(0), all = 2 * n_ + k_;
    check_states(p_w, u_v, i_a);
    check(out.shape(0) == states && out.shape(1) == all);
    check(!enough || ((enough->shape(0) == states || enough->shape(0) == 1) && enough->shape(1) == all));
    const std::size_t each = enough && enough->shape(0) == states ? all : 0;
    for (std::size_t s = 0; s < states; ++s) {
      const State state(*this, p_w.data() + s * n_, u_v.data() + s * n_, i_a.data() + s * n_);
      double* to = out.data() + s * all;
      if (!state.finite) {
        std::fill(to, to + all, std::numeric_limits<double>::infinity());
        continue;
      }
      voltages(state, to);
      if (k_) rows(state, enough ? enough->data() + s * each + 2 * n_ : nullptr, to + 2 * n_);
    }
  }

  // How far limits of voltages (r) are exceeded at worst, from the flows of some choices of exports (k, n), what another
  // choice may do (k, r) and the excess with all of them; infinite where a flow has no solution.
  void at_worst(ComplexTable u_v, Indices constraint, Table otherwise, Numbers used, double bent, Out out) const {
    const std::size_t choices = u_v.shape(0), r = constraint.size();
    check(u_v.shape(1) == n_ && otherwise.shape(0) == choices && otherwise.shape(1) == r);
    check(used.size() == r && out.size() == r);
    for (std::size_t k = 0; k < r; ++k) check(constraint(k) >= 0 && static_cast<std::size_t>(constraint(k)) < 2 * n_);
    constexpr double infinite = std::numeric_limits<double>::infinity();
    std::vector<double> least(used.data(), used.data() + r), most(r, infinite), found(2 * n_);
    double* to = out.data();
    for (std::size_t choice = 0; choice < choices; ++choice) {
      const State state(*this, nullptr, u_v.data() + choice * n_, nullptr, false);
      if (!state.finite) {
        std::fill_n(to, r, infinite);
        return;
      }
      voltages(state, found.data());
      const double* more = otherwise.data() + choice * r;
      for (std::size_t k = 0; k < r; ++k) {
        const double flow = found[constraint(k)];
        least[k] = std::max(least[k], flow), most[k] = std::min(most[k], flow + more[k]);
      }
    }
    for (std::size_t k = 0; k < r; ++k) to[k] = std::max(least[k], most[k] + bent);
  }

  // About how some constraints follow each draw (rows, n), each at the state (s) that is named for it.
  void slopes(Table p_w, ComplexTable u_v, ComplexTable i_a, Indices constraint, Indices at, OutTable out) const {
    check(out.shape(0) == constraint.size() && out.shape(1) == n_);
    double* to = out.data();
    each_slope(p_w, u_v, i_a, constraint, at, [&](std::size_t r, const double*, const double* found) {
      std::copy_n(found, n_, to + r * n_);
    });
  }

  // The same by each claim's limit (rows, m); where only what is `seen` counts, an export beyond what is measured
  // relieves nothing.
  void slopes_by_limit(Table p_w, ComplexTable u_v, ComplexTable i_a, Indices constraint, Indices at, bool seen,
                       Indices ports, Indices starts, Numbers share, Flags free, OutTable out) const {
    const Claims claims(ports, starts, share, free, n_);
    check(out.shape(0) == constraint.size() && out.shape(1) == claims.count);
    const double* now = p_now_w_.data();
    double* to = out.data();
    each_slope(p_w, u_v, i_a, constraint, at, [&](std::size_t r, const double* p, double* found) {
      if (seen)
        for (std::size_t j = 0; j < n_; ++j) found[j] = p[j] < now[j] ? std::min(found[j], 0.0) : found[j];
      claims.by_limit(found, to + r * claims.count);
    });
  }

 private:
  // One state, and what all its rows ask for.
  struct State {
    const double* p;
    const Complex *u, *i;
    bool finite = true;
    std::vector<double> u_size;
    // Of exports that are not measured: which they are, by how much each port exports more [W], the currents of what is
    // drawn now at these voltages, the larger current of both; the share by which each grows where all of them are absent,
    // once it is asked for.
    std::vector<std::size_t> unseen;
    std::vector<double> absent_w, larger_a;
    std::vector<Complex> beyond_a;
    mutable std::vector<double> share;
    // Shares by which currents grow without some of them, for choices that have been looked at.
    mutable std::vector<std::pair<std::vector<std::uint8_t>, std::vector<double>>> known;

    State(const Flows& by, const double* p_, const Complex* u_, const Complex* i_, bool of_rows = true)
        : p(p_), u(u_), i(i_), u_size(by.n_) {
      sizes(u, by.n_, u_size.data());
      finite = std::all_of(u_size.begin(), u_size.end(), [](double volts) { return std::isfinite(volts); });
      if (!finite || !by.k_ || !of_rows) return;
      for (std::size_t j = 0; j < by.n_; ++j)
        if (p[j] < by.p_now_w_(j)) unseen.push_back(j);
      if (unseen.empty()) return;
      absent_w.resize(by.n_), larger_a.resize(by.n_), beyond_a.resize(by.n_);
      const double* now = by.p_now_w_.data();
      for (std::size_t j = 0; j < by.n_; ++j) absent_w[j] = std::max(now[j] - p[j], 0.0);
      std::vector<Complex> at_now(by.n_);
      std::vector<double> size_now(by.n_);
      over_square(by.turned_.data(), u, u_size.data(), by.n_, at_now.data());
      for (std::size_t j = 0; j < by.n_; ++j) beyond_a[j] = i[j] - at_now[j];
      sizes(i, by.n_, larger_a.data()), sizes(at_now.data(), by.n_, size_now.data());
      for (std::size_t j = 0; j < by.n_; ++j) larger_a[j] = std::max(larger_a[j], size_now[j]);
    }
  };

  void check_states(const Table& p_w, const ComplexTable& u_v, const ComplexTable& i_a) const {
    const std::size_t states = p_w.shape(0);
    check(p_w.shape(1) == n_ && u_v.shape(0) == states && u_v.shape(1) == n_);
    check(i_a.shape(0) == states && i_a.shape(1) == n_);
  }

  template <typename Take>
  void each_slope(const Table& p_w, const ComplexTable& u_v, const ComplexTable& i_a, const Indices& constraint,
                  const Indices& at, Take take) const {
    const std::size_t states = p_w.shape(0), count = constraint.size();
    check_states(p_w, u_v, i_a);
    check(at.size() == count);
    for (std::size_t r = 0; r < count; ++r) {
      check(constraint(r) >= 0 && static_cast<std::size_t>(constraint(r)) < 2 * n_ + k_);
      check(at(r) >= 0 && static_cast<std::size_t>(at(r)) < states);
    }
    std::vector<double> found(n_);
    std::vector<Complex> di(n_);
    for (std::size_t s = 0; s < states; ++s) {
      bool asked = false, of_rows = false;
      for (std::size_t r = 0; r < count; ++r)
        if (static_cast<std::size_t>(at(r)) == s) asked = true, of_rows |= static_cast<std::size_t>(constraint(r)) >= 2 * n_;
      if (!asked) continue;
      const State state(*this, p_w.data() + s * n_, u_v.data() + s * n_, i_a.data() + s * n_, of_rows);
      for (std::size_t j = 0; j < n_; ++j) di[j] = -state.u[j] / (state.u_size[j] * state.u_size[j]);
      for (std::size_t r = 0; r < count; ++r) {
        if (static_cast<std::size_t>(at(r)) != s) continue;
        const std::size_t row = constraint(r);
        if (!state.finite) std::fill(found.begin(), found.end(), 0.0);
        else if (row < 2 * n_) slope_of_voltage(state, di, row, found.data());
        else slope_of_row(state, di, row - 2 * n_, found.data());
        take(r, state.p, found.data());
      }
    }
  }

  void voltages(const State& state, double* to) const {
    const double *u = state.u_size.data(), *model = u_model_v_.data(), *nominal = u_nominal_v_.data();
    const double *above = over_v_.data(), *below = under_v_.data(), error = model_error_;
    double *__restrict over = to, *__restrict under = to + n_;
    for (std::size_t j = 0; j < n_; ++j) {
      const double change = u[j] - model[j], doubt = std::abs(change) * error;
      over[j] = (above[j] + change + doubt) / nominal[j];
      under[j] = (below[j] - change + doubt) / nominal[j];
    }
  }

  // How far a row may go.
  double most(const State& state, std::size_t row) const {
    if (row < i_max_a_.size()) return i_max_a_(row);
    const std::size_t bus = row - i_max_a_.size();
    return vuf_max_ * size(forward_open_v_(bus) + product(forward_h_.data() + bus * n_, state.i, n_));
  }

  void rows(const State& state, const double* enough, double* to) const {
    std::vector<double> changed(n_);
    for (std::size_t j = 0; j < n_; ++j) changed[j] = size(state.i[j] - i_now_a_(j));
    std::vector<double> rough, doubt;  // with all exports that are not measured, used or not
    if (!state.unseen.empty() && enough) rough = doubted(state, bound_of_absent(state));
    for (std::size_t row = 0; row < k_; ++row) {
      const double *reach = reach_.data() + row * n_, limit = most(state, row);
      const Complex full = open_(row) + product(h_.data() + row * n_, state.i, n_);
      const double blur = blur_(row) + wrong_ * product(reach, changed.data(), n_);
      double value = size(full) + blur;
      if (!state.unseen.empty()) {
        const auto will_do = [&](double x) { return enough && x / limit - 1.0 <= enough[row]; };
        const double certain = value;
        if (enough) value = certain + product(reach, rough.data(), n_);
        if (!will_do(value)) {
          if (doubt.empty()) doubt = doubted(state, share_of_absent(state));
          value = certain + product(reach, doubt.data(), n_);
          if (value > near_share * limit && !will_do(value)) value = blur + worst(state, row, full).bound;
        }
      }
      to[row] = value / limit - 1.0;
    }
  }

  // What may come to the currents where they grow by these shares, and unseen exports are used or not [A].
  std::vector<double> doubted(const State& state, const std::vector<double>& share) const {
    std::vector<double> found(n_);
    for (std::size_t j = 0; j < n_; ++j) found[j] = state.larger_a[j] * share[j];
    for (const std::size_t j : state.unseen) found[j] += size(state.beyond_a[j]);
    return found;
  }

  // What any choice of the exports makes largest of a row, with the current that others' absence adds.
  Worst worst(const State& state, std::size_t row, Complex full) const {
    const std::size_t m = state.unseen.size();
    const double* reach = reach_.data() + row * n_;
    const Complex* h = h_.data() + row * n_;
    Parts parts(m);
    Complex without = full;
    for (std::size_t e = 0; e < m; ++e) {
      const std::size_t j = state.unseen[e];
      const Complex part = times(h[j], state.beyond_a[j]);
      parts.re[e] = part.real(), parts.im[e] = part.imag();
      without -= part;
    }
    const double of_all = grown(state, reach, share_of_absent(state));
    Worst best{full, std::vector<std::uint8_t>(m, 1), size(full)};
    std::vector<std::uint8_t> used(m);
    std::vector<std::vector<std::uint8_t>> tried;
    for (int k = 0; k < directions; ++k) {
      const double angle = -2.0 * 3.14159265358979323846 * k / directions;
      Complex turn{std::cos(angle), std::sin(angle)}, chosen_by, value;
      for (int t = 0; t < turns; ++t) {
        const Complex before = value;
        chosen_by = turn;
        value = without + parts.sum(turn);
        turn = towards(value);
        if (t && value == before) break;  // it leads nowhere else
      }
      if (!(size(value) + of_all > best.bound)) continue;
      for (std::size_t e = 0; e < m; ++e) used[e] = parts.pushes(e, chosen_by);
      if (std::find(tried.begin(), tried.end(), used) != tried.end()) continue;
      tried.push_back(used);
      const double bound = size(value) + grown(state, reach, without_some(state, used));
      if (bound > best.bound) best = {value, used, bound};
    }
    return best;
  }

  // By how much a row is larger at most where currents grow by these shares.
  double grown(const State& state, const double* reach, const std::vector<double>& share) const {
    Four sum{};
    const double *larger = state.larger_a.data(), *more = share.data();
    std::size_t j = 0;
    for (; j + 4 <= n_; j += 4) sum += load<Four>(reach + j) * load<Four>(larger + j) * load<Four>(more + j);
    double rest = 0.0;
    for (; j < n_; ++j) rest += reach[j] * larger[j] * more[j];
    return total(sum) + rest;
  }

  // The same shares where the exports that are not used stay away.
  const std::vector<double>& without_some(const State& state, const std::vector<std::uint8_t>& used) const {
    for (const auto& [choice, share] : state.known)
      if (choice == used) return share;
    std::vector<double> absent_w(n_, 0.0);
    for (std::size_t e = 0; e < used.size(); ++e)
      if (!used[e]) absent_w[state.unseen[e]] = state.absent_w[state.unseen[e]];
    state.known.emplace_back(used, absent(state, absent_w));
    return state.known.back().second;
  }

  // Share by which every current is another at most where so much export does not come.
  std::vector<double> absent(const State& state, const std::vector<double>& absent_w) const {
    return shares(state, combined(absent_w, moved_));
  }

  // The same where all of them are absent: exactly, or a bound.
  const std::vector<double>& share_of_absent(const State& state) const {
    if (state.share.empty()) state.share = absent(state, state.absent_w);
    return state.share;
  }

  std::vector<double> bound_of_absent(const State& state) const {
    std::vector<double> watts(moved_by_group_.shape(0), 0.0);
    for (const std::size_t j : state.unseen) watts[group_(j)] += state.absent_w[j];
    return shares(state, combined(watts, moved_by_group_));
  }

  // Where voltages move by so much to first order about no load [share of nominal].
  std::vector<double> shares(const State& state, const std::vector<double>& moved) const {
    std::vector<double> share(n_);
    for (std::size_t j = 0; j < n_; ++j) {
      const double ratio = u_nominal_v_(j) / state.u_size[j], far = (1.0 + curved) * moved[j] * (ratio * ratio);
      share[j] = far / std::max(1.0 - far, moved_max);
    }
    return share;
  }

  // Weights (m) times rows (m, n). Four rows at a time, which is a quarter of the writing; the sums are made in the same
  // order.
  static std::vector<double> combined(const std::vector<double>& weights, const Table& rows) {
    const std::size_t n = rows.shape(1);
    std::vector<double> sum(n, 0.0);
    std::vector<std::size_t> some;
    for (std::size_t j = 0; j < weights.size(); ++j)
      if (weights[j] != 0.0) some.push_back(j);
    double* __restrict to = sum.data();
    std::size_t at = 0;
    for (; at + 4 <= some.size(); at += 4) {
      const double *__restrict a = rows.data() + some[at] * n, *__restrict b = rows.data() + some[at + 1] * n;
      const double *__restrict c = rows.data() + some[at + 2] * n, *__restrict d = rows.data() + some[at + 3] * n;
      const double p = weights[some[at]], q = weights[some[at + 1]], r = weights[some[at + 2]], s = weights[some[at + 3]];
      for (std::size_t l = 0; l < n; ++l) to[l] = (((to[l] + p * a[l]) + q * b[l]) + r * c[l]) + s * d[l];
    }
    for (; at < some.size(); ++at) {
      const double* __restrict a = rows.data() + some[at] * n;
      for (std::size_t l = 0; l < n; ++l) to[l] += weights[some[at]] * a[l];
    }
    return sum;
  }

  void slope_of_voltage(const State& state, const std::vector<Complex>& di, std::size_t row, double* to) const {
    const std::size_t port = row % n_;
    const double change = state.u_size[port] - u_model_v_(port), sign = row < n_ ? 1.0 : -1.0;
    const double way = change > 0.0 ? 1.0 : change < 0.0 ? -1.0 : 0.0;
    const Complex turn = towards(state.u[port]) * ((sign + model_error_ * way) / u_nominal_v_(port));
    along(z_ohm_.data() + port * n_, turn, di, to);
  }

  void slope_of_row(const State& state, const std::vector<Complex>& di, std::size_t row, double* to) const {
    const double *reach = reach_.data() + row * n_, limit = most(state, row);
    Complex value = open_(row) + product(h_.data() + row * n_, state.i, n_);
    std::vector<std::uint8_t> used;
    if (!state.unseen.empty()) {
      Worst found = worst(state, row, value);
      value = found.value, used = std::move(found.used);
    }
    along(h_.data() + row * n_, towards(value), di, to);
    for (std::size_t e = 0; e < state.unseen.size(); ++e)
      if (!used[e]) to[state.unseen[e]] = 0.0;  // an export that may not come relieves nothing
    for (std::size_t j = 0; j < n_; ++j) {
      const double away = state.p[j] > p_now_w_(j) ? size(di[j]) : -size(di[j]);
      to[j] = (to[j] + wrong_ * reach[j] * away) / limit;
    }
  }

  void along(const Complex* transfer, Complex turn, const std::vector<Complex>& di, double* __restrict to) const {
    const double* __restrict z = reinterpret_cast<const double*>(transfer);
    const double* __restrict d = reinterpret_cast<const double*>(di.data());
    const double tr = turn.real(), ti = turn.imag();
    for (std::size_t j = 0; j < n_; ++j)
      to[j] = z[2 * j] * (tr * d[2 * j] - ti * d[2 * j + 1]) - z[2 * j + 1] * (tr * d[2 * j + 1] + ti * d[2 * j]);
  }

  Numbers over_v_, under_v_, u_model_v_, u_nominal_v_;
  ComplexTable z_ohm_;
  Complexes open_;
  ComplexTable h_;
  Table reach_;
  Numbers i_max_a_;
  Complexes forward_open_v_;
  ComplexTable forward_h_;
  Table moved_, moved_by_group_;
  Indices group_;
  Numbers p_now_w_;
  Complexes i_now_a_;
  std::vector<Complex> turned_;  // current of now times the conjugate of the voltage that it goes with
  Numbers blur_;
  double model_error_, vuf_max_, wrong_;
  std::size_t n_, k_;
};

}  // namespace

void define_flows(nb::module_& m) {
  nb::class_<Flows>(m, "Flows", "How far the constraints of a state are exceeded, in one situation.")
      .def(nb::init<Numbers, Numbers, Numbers, Numbers, double, ComplexTable, Complexes, ComplexTable, Table, Numbers,
                    double, Complexes, ComplexTable, Table, Table, Indices, Numbers, Complexes, Complexes, Numbers, double>(),
           array("over_v"), array("under_v"), array("u_model_v"), array("u_nominal_v"), nb::arg("model_error"), array("z_ohm"), array("open"), array("h"), array("reach"),
           array("i_max_a"), nb::arg("vuf_max"), array("forward_open_v"), array("forward_h"), array("moved"), array("moved_by_group"), array("group"), array("p_now_w"), array("u_now_v"),
           array("i_now_a"), array("blur"), nb::arg("wrong"))
      .def("excess", &Flows::excess, array("p_w"), array("u_v"), array("i_a"), array("enough").none(), array("out"),
           "Of some states (n_state, n): (n_state, n_constraint); a bound will do where it is not above `enough`.")
      .def("at_worst", &Flows::at_worst, array("u_v"), array("constraint"), array("otherwise"), array("used"), nb::arg("bent"), array("out"),
           "How far limits of voltages are exceeded at worst, from the flows of some choices of exports.")
      .def("slopes", &Flows::slopes, array("p_w"), array("u_v"), array("i_a"), array("constraint"), array("at"), array("out"),
           "How some constraints follow each draw, each at the state named for it: (n_row, n).")
      .def("slopes_by_limit", &Flows::slopes_by_limit, array("p_w"), array("u_v"), array("i_a"), array("constraint"), array("at"), nb::arg("seen"),
           array("ports"), array("starts"), array("share"), array("free"), array("out"),
           "The same by each claim's limit (n_row, n_claim); `seen`: an export that is not measured relieves nothing.");
}

}  // namespace headroom_share
