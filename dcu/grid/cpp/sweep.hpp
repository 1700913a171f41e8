// The tree sweep: many states of one radial feeder, side by side in SIMD registers.
//
// Method
//   The feeder is a tree of a few dozen nodes, each with 1..4 coordinates (conductors, or conductors against the neutral);
//   `dcu.grid.tree` reduces it there exactly. With d the deviation of the voltages from their open-circuit values and J
//   the current injected at a node and below it,
//
//       leaf to root     J_parent += B^T J_node              (B is a selection on branches without shunts)
//       root to leaf     d_node    = B d_parent + C J_node    (C: impedance of the branch into the node; at the root, of
//                                                              source and transformer)
//
//   is the exact linear response to the injections. The injections depend on the port voltages, so the two passes are
//   repeated. The map contracts by q per step; the error left is about step * q / (1 - q), and that is compared with
//   the tolerance. Deviations keep their digits where voltages would lose them: float32 is good for 1e-6.
//
// Steps, for a block of as many states as a register has lanes
//   1. currents of all elements from the port voltages, added at their nodes
//   2. backward pass, 3. forward pass in place, 4. new port voltages, step and error estimate; repeat from 1
//
// Nomenclature
//   slot      one coordinate of one node; two vectors (real, imaginary) in the work array
//   port      difference of two slots (or one slot and earth), plus its open-circuit voltage, plus the drop of its own
//             current in the service line that only it uses (a leaf of the tree needs no slot)
//   element   what draws power at a port: draw (ZIP), inverter (curves over voltage), damper (three ports)
//
// All arrays over states are row-major (state, column); lanes are filled from and emptied to them.
#pragma once
#include <cstdint>
#include <vector>

namespace headroom {

constexpr int pieces_max = 7;                       // of a curve, see injections.py
constexpr int curve_width = 1 + 3 * pieces_max;

// One node of the reduced tree. Parents stand before their children; node 0 is the root.
struct Node {
  std::int32_t slot;         // first slot
  std::int32_t count;        // coordinates
  std::int32_t parent_slot;  // first slot of the parent, or first of those continued (kind > 0); -1 at the root
  std::int32_t parent_count;
  std::int32_t select;       // kind 0: offset into `selects` of the parent slots that B selects, or -1: B is dense
  std::int32_t coefficients; // offset into `coefficients`: C (count, count), then dense B (count, parent_count)
  std::int32_t kind;         // 1..4: that many coordinates continue neighbouring ones of the parent, the common case
};

template <typename T>
struct Plan {
  std::vector<Node> nodes;
  std::vector<std::int32_t> selects;
  std::vector<T> coefficients;                      // pairs (real, imaginary)
  std::int32_t slots = 0;
  std::vector<std::int32_t> port_pos, port_neg;     // slots; neg is -1 for earth
  std::vector<T> port_open;                         // pairs [V]
  std::vector<T> port_z;                            // pairs [ohm] between the slot and the port: a leaf of one coordinate
  std::vector<T> port_per_nominal;                  // 1 / nominal voltage [1/V]
};

// The elements of a batch; see `Law` in injections.py.
template <typename T>
struct Elements {
  bool plain = false;  // every draw is constant power, at most one at a port
  std::vector<std::int64_t> draw_column, draw_port;
  std::vector<T> draw_zip;                          // (draws, 3): z / u^2, i / u, p
  std::vector<std::int64_t> inverter_column, inverter_port;
  std::vector<T> inverter_per_nominal, inverter_s_max, p_curve, q_curve;
  std::vector<std::int64_t> damper_column, damper_port;  // (dampers), (dampers, 3)
  std::vector<T> damper_g, damper_i_max;
  std::vector<std::uint8_t> damper_zero;
};

// Inputs and outputs of a batch; an output that is null is not wanted.
struct Batch {
  std::int64_t states = 0, columns = 0;
  const double* p = nullptr;                        // [W] (states, columns)
  const double* q = nullptr;                        // [var]
  const double* k = nullptr;                        // [var] gain of Q(U), null without inverters
  const double* start = nullptr;                    // [V] (ports) pairs from which every state begins; null: no load
  double tolerance = 0.0;
  int steps_max = 60;
  int together = 0;                                 // so many neighbours go on while one of them needs steps: u and i of a
                                                    // state are as if there were no others; 0: as many as a register has
  double* u = nullptr;                              // [V] (states, ports) pairs
  double* i = nullptr;                              // [A] (states, ports) pairs
  double* u_min = nullptr;                          // [pu] (states)
  double* u_max = nullptr;
  double* error = nullptr;                          // [pu] (states)
  double* contraction = nullptr;
  std::int32_t* iterations = nullptr;
};

template <typename T>
using Kernel = void (*)(const Plan<T>&, const Elements<T>&, const Batch&, std::int64_t first, std::int64_t last);

// One build of sweep_kernel.cpp for each instruction set.
struct Kernels {
  const char* name;
  int lanes;  // of a double
  Kernel<double> f64;
  Kernel<float> f32;
};

namespace baseline { extern const Kernels kernels; }
#ifdef HEADROOM_X86
namespace avx2 { extern const Kernels kernels; }
namespace avx2_plain { extern const Kernels kernels; }  // no fused multiply-add: to the last bit as the baseline
namespace avx512 { extern const Kernels kernels; }
#endif

// Kernels this processor can run, best first.
const std::vector<const Kernels*>& available();

// Run a batch on `threads` threads with the named kernels. The result does not depend on the number of threads.
template <typename T>
void run(const Plan<T>&, const Elements<T>&, const Batch&, const Kernels&, int threads);

}  // namespace headroom
