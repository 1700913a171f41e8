// Compiled once for each instruction set, with HEADROOM_ISA (a namespace) and HEADROOM_VECTOR_BYTES (a register's width).
// See sweep.hpp for method and nomenclature. Everything but `kernels` is local, so that no function compiled for one
// instruction set can be linked into another.
#include "sweep.hpp"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace headroom::HEADROOM_ISA {
namespace {

template <typename T>
struct Lanes {
  static constexpr int width = HEADROOM_VECTOR_BYTES / sizeof(T);
  typedef T V __attribute__((vector_size(HEADROOM_VECTOR_BYTES)));
  typedef double Wide __attribute__((vector_size(width * sizeof(double))));  // as many doubles, as arrays over states hold
};

template <typename V> inline V larger(V a, V b) { return a > b ? a : b; }
template <typename V> inline V smaller(V a, V b) { return a < b ? a : b; }

inline double root_of(double x) { return __builtin_sqrt(x); }
inline float root_of(float x) { return __builtin_sqrtf(x); }

template <typename T>
class Block {
  using V = typename Lanes<T>::V;
  static constexpr int W = Lanes<T>::width;

  static V all(T x) { return V{} + x; }
  static V root(V x) {
    V y;
    for (int l = 0; l < W; ++l) y[l] = root_of(x[l]);
    return y;
  }

 public:
  Block(const Plan<T>& plan, const Elements<T>& elements, const Batch& batch)
      : plan_(plan), el_(elements), batch_(batch), ports_(plan.port_pos.size()) {
    const std::size_t columns = batch.columns, inverters = elements.inverter_port.size();
    const std::size_t vectors = 2 * plan.slots + 4 * ports_ + (batch.k ? 3 : 2) * columns + inverters;
    memory_ = static_cast<V*>(std::aligned_alloc(64, (vectors * sizeof(V) + 63) / 64 * 64));
    if (!memory_) std::abort();
    V* at = memory_;
    d_ = at, at += 2 * plan.slots;
    u_ = at, at += 2 * ports_;
    i_ = at, at += 2 * ports_;
    p_ = at, at += columns;
    q_ = at, at += columns;
    if (batch.k) k_ = at, at += columns;
    seen_ = at;
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { std::free(memory_); }

  // Solve the states from `first` on, at most a register full; the last lanes repeat the last state.
  void solve(std::int64_t first) {
    const int live = batch_.states - first < W ? static_cast<int>(batch_.states - first) : W;
    load(first, live);
    start();
    // q is the larger of the last two ratios of steps, and at least 0.3 where only one is known: one may be small by
    // chance. A lane that is done keeps its figures, whatever its neighbours still need; its voltages go on while one of
    // those needs it that it goes together with.
    V error = all(T(1e30)), contraction{}, before{}, steps{}, q_before = all(T(0.3));
    const int together = batch_.together && batch_.together < W ? batch_.together : W;
    int count = 0;
    unsigned written = 0;  // lanes whose state is where it belongs
    for (bool busy = true; busy && count < batch_.steps_max;) {
      inject();
      backward();
      forward();
      const V step = root(update());
      ++count;
      busy = true;
      if (count > 1) {
        const V quiet = all(sizeof(T) == 8 ? T(1e-14) : T(2e-7));  // steps of rounding say nothing about q
        const V ratio = smaller(step / larger(before, all(T(1e-30))), all(T(0.999)));
        const V q = step < quiet ? larger(q_before, all(T(0.5))) : larger(ratio, q_before);
        q_before = step < quiet ? q_before : ratio;
        const V now = step * q / (T(1) - q), target = all(static_cast<T>(batch_.tolerance));
        error = steps == V{} ? now : error;
        contraction = (steps == V{}) & (step >= quiet) ? ratio : contraction;
        steps = (now <= target) & (steps == V{}) ? all(static_cast<T>(count)) : steps;
        busy = false;
        for (int l = 0; l < W; ++l) busy |= steps[l] == T(0);  // a NaN never gets there
        for (int from = 0; from < live && busy && together < W; from += together) {
          bool done = !(written >> from & 1);
          for (int l = from; l < from + together; ++l) done &= steps[l] != T(0);
          for (int l = from; l < from + together && l < live && done; ++l) put(first, l), written |= 1u << l;
        }
      }
      before = step;
    }
    store(first, live, error, contraction, steps, written);
  }

 private:
  // Square of W vectors on its side: log2(W) rounds of interleaving rows that stand W/2 apart.
  template <std::size_t... I>
  static void interleave(const V* in, V* out, std::index_sequence<I...>) {
    for (int r = 0; r < W / 2; ++r) {
      out[2 * r] = __builtin_shufflevector(in[r], in[r + W / 2], (I % 2 ? W + I / 2 : I / 2)...);
      out[2 * r + 1] = __builtin_shufflevector(in[r], in[r + W / 2], (I % 2 ? W + W / 2 + I / 2 : W / 2 + I / 2)...);
    }
  }
  static void transpose(V* square) {
    V other[W];
    for (int round = 1; round < W; round *= 4) {
      interleave(square, other, std::make_index_sequence<W>{});
      if (2 * round < W) interleave(other, square, std::make_index_sequence<W>{});
      else std::memcpy(square, other, sizeof other);
    }
  }

  // Rows of `live` states into one vector for each column.
  void gather(const double* from, V* to, std::int64_t first, int live) const {
    const std::int64_t columns = batch_.columns;
    const double* row[W];
    for (int l = 0; l < W; ++l) row[l] = from + (first + (l < live ? l : live - 1)) * columns;
    std::int64_t c = 0;
    for (; c + W <= columns; c += W) {
      V square[W];
      for (int l = 0; l < W; ++l) {
        typename Lanes<T>::Wide wide;
        std::memcpy(&wide, row[l] + c, sizeof wide);
        square[l] = __builtin_convertvector(wide, V);
      }
      transpose(square);
      for (int l = 0; l < W; ++l) to[c + l] = square[l];
    }
    for (; c < columns; ++c) {
      V a;
      for (int l = 0; l < W; ++l) a[l] = static_cast<T>(row[l][c]);
      to[c] = a;
    }
  }

  void load(std::int64_t first, int live) {
    gather(batch_.p, p_, first, live);
    gather(batch_.q, q_, first, live);
    if (k_) gather(batch_.k, k_, first, live);
  }

  void start() {
    const double* near = batch_.start;
    for (std::size_t port = 0; port < ports_; ++port) {
      i_[2 * port] = i_[2 * port + 1] = V{};
      u_[2 * port] = all(near ? static_cast<T>(near[2 * port]) : plan_.port_open[2 * port]);
      u_[2 * port + 1] = all(near ? static_cast<T>(near[2 * port + 1]) : plan_.port_open[2 * port + 1]);
    }
    for (std::size_t e = 0; e < el_.inverter_port.size(); ++e) seen_[e] = magnitude(el_.inverter_port[e]);
  }

  V magnitude(std::int64_t port) const {
    const V ur = u_[2 * port], ui = u_[2 * port + 1];
    return root(ur * ur + ui * ui);
  }

  // Step 1: i = -conj(p + j q) / conj(u) at every element.
  void inject() {
    const V zero{};
    for (std::int32_t s = 0; s < 2 * plan_.slots; ++s) d_[s] = zero;
    if (el_.plain) {
      const std::int64_t *ports = el_.draw_port.data(), *columns = el_.draw_column.data();
      const std::size_t draws = el_.draw_port.size();
      for (std::size_t e = 0; e < draws; ++e) {
        const std::int64_t port = ports[e], column = columns[e];
        const V ur = u_[2 * port], ui = u_[2 * port + 1];
        const V w = T(-1) / (ur * ur + ui * ui);
        const V p = p_[column] * w, q = q_[column] * w;
        const V re = p * ur + q * ui, im = p * ui - q * ur;
        i_[2 * port] = re, i_[2 * port + 1] = im;
        spread(port, re, im);
      }
      return;
    }
    for (std::size_t port = 0; port < ports_; ++port) i_[2 * port] = i_[2 * port + 1] = zero;
    draws();
    inverters();
    for (std::size_t e = 0; e < el_.damper_column.size(); ++e) damper(e);
    for (std::size_t port = 0; port < ports_; ++port) spread(port, i_[2 * port], i_[2 * port + 1]);
  }

  void spread(std::int64_t port, V re, V im) {
    V* pos = d_ + 2 * plan_.port_pos[port];
    pos[0] += re, pos[1] += im;
    if (plan_.port_neg[port] >= 0) {
      V* neg = d_ + 2 * plan_.port_neg[port];
      neg[0] -= re, neg[1] -= im;
    }
  }

  void current(std::int64_t port, V p, V q) {
    const V ur = u_[2 * port], ui = u_[2 * port + 1];
    const V w = T(-1) / (ur * ur + ui * ui);
    i_[2 * port] += (p * ur + q * ui) * w;
    i_[2 * port + 1] += (p * ui - q * ur) * w;
  }

  void draws() {
    for (std::size_t e = 0; e < el_.draw_port.size(); ++e) {
      const T* zip = &el_.draw_zip[3 * e];
      const V m = magnitude(el_.draw_port[e]);
      const V factor = (zip[0] * m + zip[1]) * m + zip[2];
      current(el_.draw_port[e], p_[el_.draw_column[e]] * factor, q_[el_.draw_column[e]] * factor);
    }
  }

  static V curve(const T* row, V x) {
    V y = all(row[0]);
    for (int piece = 0; piece < pieces_max; ++piece) {
      const T start = row[1 + 3 * piece], width = row[2 + 3 * piece], slope = row[3 + 3 * piece];
      if (slope != T(0)) y += slope * smaller(larger(x - start, V{}), all(width));
    }
    return y;
  }

  void inverters() {
    for (std::size_t e = 0; e < el_.inverter_port.size(); ++e) {
      const std::int64_t column = el_.inverter_column[e];
      const V x = seen_[e] * el_.inverter_per_nominal[e];
      const V p = p_[column] * curve(&el_.p_curve[curve_width * e], x);
      V q = q_[column] + k_[column] * curve(&el_.q_curve[curve_width * e], x);
      const T s_max = el_.inverter_s_max[e];
      if (s_max < T(1e30)) {
        const V room = root(larger(s_max * s_max - p * p, V{}));
        q = smaller(larger(q, -room), room);
      }
      current(el_.inverter_port[e], p, q);
    }
  }

  // Meersman et al. 2011: a positive-sequence source and a resistance 1/g for what is not positive sequence.
  void damper(std::size_t e) {
    const std::int64_t* port = &el_.damper_port[3 * e];
    const T c[3] = {1, T(-0.5), T(-0.5)}, s[3] = {0, T(0.86602540378443864676), T(-0.86602540378443864676)};
    V r1{}, x1{}, r0{}, x0{};
    for (int k = 0; k < 3; ++k) {  // turning forward by k thirds aligns the positive sequence
      const V ur = u_[2 * port[k]], ui = u_[2 * port[k] + 1];
      r1 += c[k] * ur - s[k] * ui, x1 += c[k] * ui + s[k] * ur;
      r0 += ur, x0 += ui;
    }
    const T third = T(1) / 3;
    r1 *= third, x1 *= third, r0 *= third, x0 *= third;
    if (!el_.damper_zero[e]) r0 = x0 = V{} + T(0);
    const bool keep_zero = !el_.damper_zero[e];
    const V w = p_[el_.damper_column[e]] * (T(-1) / 3) / (r1 * r1 + x1 * x1);
    V mr[3], mi[3], dr[3], di[3];
    V share = all(1);
    for (int k = 0; k < 3; ++k) {
      const V fr = c[k] * r1 + s[k] * x1, fi = c[k] * x1 - s[k] * r1;  // positive sequence turned back
      mr[k] = w * fr, mi[k] = w * fi;
      V zr{}, zi{};
      if (keep_zero) {
        for (int j = 0; j < 3; ++j) zr += u_[2 * port[j]] * third, zi += u_[2 * port[j] + 1] * third;
      }
      const T g = el_.damper_g[e];
      dr[k] = -g * (u_[2 * port[k]] - fr - zr), di[k] = -g * (u_[2 * port[k] + 1] - fi - zi);
      const V a = dr[k] * dr[k] + di[k] * di[k], b = mr[k] * dr[k] + mi[k] * di[k];
      const V room = mr[k] * mr[k] + mi[k] * mi[k] - el_.damper_i_max[e] * el_.damper_i_max[e];
      const V part = (root(larger(b * b - a * room, V{})) - b) / larger(a, all(T(1e-30)));
      share = smaller(share, room > V{} ? V{} : larger(part, V{}));
    }
    for (int k = 0; k < 3; ++k) {
      i_[2 * port[k]] += mr[k] + share * dr[k];
      i_[2 * port[k] + 1] += mi[k] + share * di[k];
    }
  }

  // J of a node of N coordinates to those of its parent that it continues.
  template <int N>
  [[gnu::always_inline]] static inline void lift(const V* j, V* parent) {
    for (int r = 0; r < 2 * N; ++r) parent[r] += j[r];
  }

  // d = from_parent + C J for a node of N coordinates, in place of its J.
  template <int N>
  [[gnu::always_inline]] static inline void drop(const T* c, V* slots, const V* from_parent) {
    V j[2 * N], d[2 * N];
    for (int r = 0; r < 2 * N; ++r) j[r] = slots[r], d[r] = from_parent[r];
    for (int k = 0; k < N; ++k)
      for (int r = 0; r < N; ++r) {
        const T re = c[2 * (N * r + k)], im = c[2 * (N * r + k) + 1];
        d[2 * r] += re * j[2 * k], d[2 * r + 1] += re * j[2 * k + 1];
        d[2 * r] -= im * j[2 * k + 1], d[2 * r + 1] += im * j[2 * k];
      }
    for (int r = 0; r < 2 * N; ++r) slots[r] = d[r];
  }

  static constexpr int count_max = 16;

  static void drop_any(std::int32_t n, const T* c, V* slots, const V* from_parent) {
    V j[2 * count_max];
    for (std::int32_t r = 0; r < 2 * n; ++r) j[r] = slots[r];
    for (std::int32_t r = 0; r < n; ++r) {
      V re = from_parent[2 * r], im = from_parent[2 * r + 1];
      for (std::int32_t k = 0; k < n; ++k, c += 2) {
        re += c[0] * j[2 * k] - c[1] * j[2 * k + 1];
        im += c[0] * j[2 * k + 1] + c[1] * j[2 * k];
      }
      slots[2 * r] = re, slots[2 * r + 1] = im;
    }
  }

  // Step 2: J of every node to its parent.
  void backward() {
    for (std::size_t at = plan_.nodes.size() - 1; at > 0; --at) {
      const Node& node = plan_.nodes[at];
      const V* j = d_ + 2 * node.slot;
      V* parent = d_ + 2 * node.parent_slot;
      switch (node.kind) {
        case 1: lift<1>(j, parent); continue;
        case 2: lift<2>(j, parent); continue;
        case 3: lift<3>(j, parent); continue;
        case 4: lift<4>(j, parent); continue;
      }
      if (node.select >= 0) {
        const std::int32_t* to = &plan_.selects[node.select];
        for (std::int32_t r = 0; r < node.count; ++r) lift<1>(j + 2 * r, d_ + 2 * to[r]);
        continue;
      }
      const T* b = &plan_.coefficients[node.coefficients] + 2 * node.count * node.count;
      for (std::int32_t r = 0; r < node.count; ++r)
        for (std::int32_t c = 0; c < node.parent_count; ++c, b += 2) {
          parent[2 * c] += b[0] * j[2 * r] - b[1] * j[2 * r + 1];
          parent[2 * c + 1] += b[0] * j[2 * r + 1] + b[1] * j[2 * r];
        }
    }
  }

  // Step 3: deviations, in place of the currents.
  void forward() {
    const V none[2 * count_max] = {};
    const Node& top = plan_.nodes[0];
    drop_any(top.count, &plan_.coefficients[top.coefficients], d_ + 2 * top.slot, none);
    for (std::size_t at = 1; at < plan_.nodes.size(); ++at) {
      const Node& node = plan_.nodes[at];
      const T* c = &plan_.coefficients[node.coefficients];
      V* slots = d_ + 2 * node.slot;
      const V* parent = d_ + 2 * node.parent_slot;
      switch (node.kind) {
        case 1: drop<1>(c, slots, parent); continue;
        case 2: drop<2>(c, slots, parent); continue;
        case 3: drop<3>(c, slots, parent); continue;
        case 4: drop<4>(c, slots, parent); continue;
      }
      V above[2 * count_max];
      if (node.select >= 0) {
        const std::int32_t* from = &plan_.selects[node.select];
        for (std::int32_t r = 0; r < node.count; ++r)
          above[2 * r] = d_[2 * from[r]], above[2 * r + 1] = d_[2 * from[r] + 1];
      } else {
        const T* b = c + 2 * node.count * node.count;
        for (std::int32_t r = 0; r < node.count; ++r) {
          V re{}, im{};
          for (std::int32_t k = 0; k < node.parent_count; ++k, b += 2) {
            re += b[0] * parent[2 * k] - b[1] * parent[2 * k + 1];
            im += b[0] * parent[2 * k + 1] + b[1] * parent[2 * k];
          }
          above[2 * r] = re, above[2 * r + 1] = im;
        }
      }
      drop_any(node.count, c, slots, above);
    }
  }

  // Step 4: new port voltages; the square of the largest step [pu].
  V update() {
    V largest{}, sum{};
    const T *open = plan_.port_open.data(), *z = plan_.port_z.data(), *per_nominal = plan_.port_per_nominal.data();
    const std::int32_t *at = plan_.port_pos.data(), *against = plan_.port_neg.data();
    for (std::size_t port = 0; port < ports_; ++port, open += 2, z += 2) {
      const V* pos = d_ + 2 * at[port];
      V* u = u_ + 2 * port;
      const V* i = i_ + 2 * port;
      V re = open[0] + pos[0], im = open[1] + pos[1];
      re += z[0] * i[0], im += z[0] * i[1];
      re -= z[1] * i[1], im += z[1] * i[0];
      if (against[port] >= 0) {
        const V* neg = d_ + 2 * against[port];
        re -= neg[0], im -= neg[1];
      }
      const V dr = (re - u[0]) * per_nominal[port], di = (im - u[1]) * per_nominal[port];
      const V change = dr * dr + di * di;
      largest = larger(largest, change);
      sum += change;
      u[0] = re, u[1] = im;
    }
    for (std::size_t e = 0; e < el_.inverter_port.size(); ++e) {  // curves follow the voltage a part of the way
      const V wish = magnitude(el_.inverter_port[e]) - seen_[e];
      seen_[e] += T(0.4) * wish;
      const V off = wish * el_.inverter_per_nominal[e];
      largest = larger(largest, off * off);
    }
    return sum == sum ? largest : sum;  // a comparison loses NaN, a sum does not
  }

  void store(std::int64_t first, int live, V error, V ratio, V steps, unsigned written) {
    V low = all(T(1e30)), high = all(T(-1e30));
    if (batch_.u_min) {
      for (std::size_t port = 0; port < ports_; ++port) {
        const V x = magnitude(port) * plan_.port_per_nominal[port];
        low = smaller(low, x), high = larger(high, x);
      }
    }
    for (int l = 0; l < live; ++l) {
      const std::int64_t state = first + l;
      batch_.error[state] = error[l], batch_.contraction[state] = ratio[l];
      batch_.iterations[state] = steps[l] > 0 ? static_cast<std::int32_t>(steps[l]) : batch_.steps_max;
      if (batch_.u_min) batch_.u_min[state] = low[l], batch_.u_max[state] = high[l];
    }
    if (written) {
      for (int l = 0; l < live; ++l)
        if (!(written >> l & 1)) put(first, l);
      return;
    }
    if (batch_.u) scatter(batch_.u, u_, first, live);
    if (batch_.i) scatter(batch_.i, i_, first, live);
  }

  // One lane's state as it is.
  void put(std::int64_t first, int lane) const {
    const std::size_t width = 2 * ports_, at = (first + lane) * width;
    for (std::size_t c = 0; c < width && batch_.u; ++c) batch_.u[at + c] = u_[c][lane];
    for (std::size_t c = 0; c < width && batch_.i; ++c) batch_.i[at + c] = i_[c][lane];
  }

  void scatter(double* to, const V* from, std::int64_t first, int live) const {
    const std::size_t width = 2 * ports_;
    std::size_t c = 0;
    for (; c + W <= width; c += W) {
      V square[W];
      for (int l = 0; l < W; ++l) square[l] = from[c + l];
      transpose(square);
      for (int l = 0; l < live; ++l) {
        const auto wide = __builtin_convertvector(square[l], typename Lanes<T>::Wide);
        std::memcpy(to + (first + l) * width + c, &wide, sizeof wide);
      }
    }
    for (; c < width; ++c)
      for (int l = 0; l < live; ++l) to[(first + l) * width + c] = from[c][l];
  }

  const Plan<T>& plan_;
  const Elements<T>& el_;
  const Batch& batch_;
  std::size_t ports_;
  V* memory_;
  V *d_, *u_, *i_, *p_, *q_, *k_ = nullptr, *seen_;
};

template <typename T>
void sweep(const Plan<T>& plan, const Elements<T>& elements, const Batch& batch, std::int64_t first, std::int64_t last) {
  Block<T> block(plan, elements, batch);
  for (std::int64_t state = first; state < last; state += Lanes<T>::width) block.solve(state);
}

}  // namespace

#define HEADROOM_TEXT(x) #x
#define HEADROOM_NAME(x) HEADROOM_TEXT(x)
extern const Kernels kernels;
const Kernels kernels = {HEADROOM_NAME(HEADROOM_ISA), Lanes<double>::width, sweep<double>, sweep<float>};

}  // namespace headroom::HEADROOM_ISA
