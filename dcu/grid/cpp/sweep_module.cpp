// The binding of the tree sweep; types, shapes and order only, no logic.
#include "sweep.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

namespace nb = nanobind;
using nb::literals::operator""_a;
using namespace headroom;

template <typename T> using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutTable = nb::ndarray<double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OutCount = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

template <typename To, typename From>
std::vector<To> copy(const Flat<From>& from) {
  return {from.data(), from.data() + from.size()};
}

struct BothPlans {
  Plan<double> f64;
  Plan<float> f32;
};

struct BothElements {
  Elements<double> f64;
  Elements<float> f32;
};

using Columns = Flat<std::int64_t>;
using Numbers = Flat<double>;

template <typename T>
Elements<T> elements_of(bool plain, const Columns& draw_column, const Columns& draw_port, const Numbers& draw_zip,
                        const Columns& inverter_column, const Columns& inverter_port,
                        const Numbers& inverter_per_nominal, const Numbers& inverter_s_max, const Numbers& p_curve,
                        const Numbers& q_curve, const Columns& damper_column, const Columns& damper_port,
                        const Numbers& damper_g, const Numbers& damper_i_max, const Flat<std::uint8_t>& damper_zero) {
  Elements<T> e;
  e.plain = plain;
  e.draw_column = copy<std::int64_t>(draw_column), e.draw_port = copy<std::int64_t>(draw_port);
  e.draw_zip = copy<T>(draw_zip);
  e.inverter_column = copy<std::int64_t>(inverter_column), e.inverter_port = copy<std::int64_t>(inverter_port);
  e.inverter_per_nominal = copy<T>(inverter_per_nominal), e.inverter_s_max = copy<T>(inverter_s_max);
  e.p_curve = copy<T>(p_curve), e.q_curve = copy<T>(q_curve);
  e.damper_column = copy<std::int64_t>(damper_column), e.damper_port = copy<std::int64_t>(damper_port);
  e.damper_g = copy<T>(damper_g), e.damper_i_max = copy<T>(damper_i_max);
  e.damper_zero = copy<std::uint8_t>(damper_zero);
  return e;
}

template <typename T>
Plan<T> plan_of(const Flat<std::int32_t>& nodes, const Flat<std::int32_t>& selects, const Flat<double>& coefficients,
                std::int32_t slots, const Flat<std::int32_t>& pos, const Flat<std::int32_t>& neg,
                const Flat<double>& open, const Flat<double>& z, const Flat<double>& per_nominal) {
  Plan<T> plan;
  const std::int32_t* at = nodes.data();
  for (std::size_t k = 0; k < nodes.size() / 7; ++k, at += 7)
    plan.nodes.push_back({at[0], at[1], at[2], at[3], at[4], at[5], at[6]});
  plan.selects = copy<std::int32_t>(selects);
  plan.coefficients = copy<T>(coefficients);
  plan.slots = slots;
  plan.port_pos = copy<std::int32_t>(pos);
  plan.port_neg = copy<std::int32_t>(neg);
  plan.port_open = copy<T>(open);
  plan.port_z = copy<T>(z);
  plan.port_per_nominal = copy<T>(per_nominal);
  return plan;
}

double* data(std::optional<Out>& out) { return out ? out->data() : nullptr; }
double* data(std::optional<OutTable>& out) { return out ? out->data() : nullptr; }

}  // namespace

NB_MODULE(_sweep, m) {
  nb::set_leak_warnings(false);  // a plan that a model keeps may live as long as the interpreter
  m.doc() = "Compiled tree sweep; see dcu/grid/cpp/sweep.hpp. Use it through dcu.grid.sweep.";

  nb::class_<BothPlans>(m, "Plan", "A reduced tree, see dcu.grid.tree.TreeModel.")
      .def("__init__",
           [](BothPlans* self, Flat<std::int32_t> nodes, Flat<std::int32_t> selects, Flat<double> coefficients,
              std::int32_t slots, Flat<std::int32_t> port_pos, Flat<std::int32_t> port_neg, Flat<double> port_open,
              Flat<double> port_z, Flat<double> port_per_nominal) {
             new (self) BothPlans{plan_of<double>(nodes, selects, coefficients, slots, port_pos, port_neg, port_open,
                                                  port_z, port_per_nominal),
                                  plan_of<float>(nodes, selects, coefficients, slots, port_pos, port_neg, port_open,
                                                 port_z, port_per_nominal)};
           },
           "nodes"_a, "selects"_a, "coefficients"_a, "slots"_a, "port_pos"_a, "port_neg"_a, "port_open"_a, "port_z"_a,
           "port_per_nominal"_a);

  nb::class_<BothElements>(m, "Elements", "What draws power, see dcu.grid.injections.Law.")
      .def("__init__",
           [](BothElements* self, bool plain, Columns draw_column, Columns draw_port, Numbers draw_zip,
              Columns inverter_column, Columns inverter_port, Numbers inverter_per_nominal, Numbers inverter_s_max,
              Numbers p_curve, Numbers q_curve, Columns damper_column, Columns damper_port, Numbers damper_g,
              Numbers damper_i_max, Flat<std::uint8_t> damper_zero) {
             const auto make = [&](auto kind) {
               return elements_of<decltype(kind)>(plain, draw_column, draw_port, draw_zip, inverter_column, inverter_port,
                                                  inverter_per_nominal, inverter_s_max, p_curve, q_curve, damper_column,
                                                  damper_port, damper_g, damper_i_max, damper_zero);
             };
             new (self) BothElements{make(double{}), make(float{})};
           },
           "plain"_a, "draw_column"_a, "draw_port"_a, "draw_zip"_a, "inverter_column"_a, "inverter_port"_a,
           "inverter_per_nominal"_a, "inverter_s_max"_a, "p_curve"_a, "q_curve"_a, "damper_column"_a, "damper_port"_a,
           "damper_g"_a, "damper_i_max"_a, "damper_zero"_a);

  m.def("available", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : available()) names.emplace_back(kernels->name);
    return names;
  }, "Instruction sets this processor can run, best first.");

  m.def("solve",
        [](const BothPlans& plan, const BothElements& elements, Table p_w, Table q_var, std::optional<Table> k_var,
           double tolerance_pu, int steps_max, int threads, const std::string& kernels, bool single, Out error_pu,
           Out contraction, OutCount iterations, std::optional<OutTable> u_v, std::optional<OutTable> i_a,
           std::optional<Out> u_min_pu, std::optional<Out> u_max_pu, std::optional<Flat<double>> start_v,
           int together) {
          if (start_v && start_v->size() != 2 * plan.f64.port_pos.size())
            throw std::invalid_argument("a start of so many ports");
          if (together < 0 || (together & (together - 1))) throw std::invalid_argument("so many states together");
          Batch batch;
          batch.states = p_w.shape(0), batch.columns = p_w.shape(1);
          batch.p = p_w.data(), batch.q = q_var.data(), batch.k = k_var ? k_var->data() : nullptr;
          batch.start = start_v ? start_v->data() : nullptr;
          batch.tolerance = tolerance_pu, batch.steps_max = steps_max, batch.together = together;
          batch.error = error_pu.data(), batch.contraction = contraction.data(), batch.iterations = iterations.data();
          batch.u = data(u_v), batch.i = data(i_a), batch.u_min = data(u_min_pu), batch.u_max = data(u_max_pu);
          for (const Kernels* found : available())
            if (kernels.empty() || kernels == found->name) {
              nb::gil_scoped_release release;
              if (single) run(plan.f32, elements.f32, batch, *found, threads);
              else run(plan.f64, elements.f64, batch, *found, threads);
              return;
            }
          throw std::invalid_argument("no such instruction set on this processor: " + kernels);
        },
        "plan"_a, "elements"_a, "p_w"_a, "q_var"_a, "k_var"_a.none(), "tolerance_pu"_a, "steps_max"_a, "threads"_a,
        "kernels"_a, "single"_a, "error_pu"_a, "contraction"_a, "iterations"_a, "u_v"_a.none(), "i_a"_a.none(),
        "u_min_pu"_a.none(), "u_max_pu"_a.none(), "start_v"_a.none() = nb::none(), "together"_a = 0,
        "Solve p_w, q_var, k_var (n_state, n_column), each from start_v (n_port * 2) or no load; write u_v and i_a (n_state, n_port, 2), u_min_pu, u_max_pu, "
        "error_pu, contraction and iterations (n_state). What is written of a state does not depend on others than those that stand `together` with it; 0: in a register.");
}
