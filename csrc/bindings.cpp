// _C: plans, reasons and the forced plan, for Python. No torch header, so it follows the Python
// version alone.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

#include "plan.h"
#include "plan_scope.h"

namespace py = pybind11;

namespace {

using namespace dcn;

Algorithm parse_algorithm(const std::string& name) {
  const auto algorithm = algorithm_named(name);
  if (!algorithm) throw std::invalid_argument("there is no algorithm '" + name + "'");
  return *algorithm;
}

Dtype parse_dtype(const std::string& name) {
  for (const Dtype dtype : {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::invalid_argument("there is no dtype '" + name + "': f64, f32, f16 or bf16");
}

Pass parse_pass(const std::string& name) {
  for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
    if (name == name_of(pass)) return pass;
  }
  throw std::invalid_argument("there is no pass '" + name + "': forward or backward");
}

DeviceInfo parse_device(const std::string& name) {
  const auto preset = device_preset(name);
  if (preset) return *preset;
  std::string known;
  for (const DeviceInfo& info : device_presets()) known += " " + info.name;
  throw std::invalid_argument("there is no device preset '" + name + "', only" + known);
}

std::string to_string(const Plan& plan) { return plan.to_string(); }

void bind_values(py::module_& m) {
  py::class_<ConvShape> shape(m, "ConvShape", "Geometry of one call; fields as in the manual.");
  shape.def(py::init<>());
#define DCN_FIELD(name) shape.def_readwrite(#name, &ConvShape::name)
  DCN_FIELD(N), DCN_FIELD(C), DCN_FIELD(H), DCN_FIELD(W), DCN_FIELD(K), DCN_FIELD(R), DCN_FIELD(S);
  DCN_FIELD(P), DCN_FIELD(Q), DCN_FIELD(G), DCN_FIELD(D), DCN_FIELD(stride_h), DCN_FIELD(stride_w);
  DCN_FIELD(pad_h), DCN_FIELD(pad_w), DCN_FIELD(dil_h), DCN_FIELD(dil_w);
#undef DCN_FIELD

  py::class_<Plan>(m, "Plan", "How one call is run.")
      .def_property_readonly("algorithm", [](const Plan& p) { return name_of(p.algorithm); })
      .def_readonly("chunk_pixels", &Plan::chunk_pixels)
      .def_readonly("chunks", &Plan::chunks)
      .def_readonly("lanes", &Plan::lanes)
      .def_readonly("columns_bytes", &Plan::columns_bytes)
      .def_readonly("workspace_bytes", &Plan::workspace_bytes)
      .def_readonly("accumulator_bytes", &Plan::accumulator_bytes)
      .def_readonly("deterministic", &Plan::deterministic)
      .def_property_readonly("tile", [](const Plan& p) { return p.fused.tile; })
      .def_property_readonly("split_k", [](const Plan& p) { return p.fused.split_k; })
      .def_property_readonly(
          "merged", [](const Plan& p) { return std::max(p.fused.merged, p.fused_backward.merged); })
      .def_property_readonly("prepacked", [](const Plan& p) { return p.fused.prepacked; })
      .def("__str__", &to_string)
      .def("__repr__", [](const Plan& p) { return "<dcn.Plan " + p.to_string() + ">"; });

  py::class_<ForcedPlan>(m, "ForcedPlan")
      .def(py::init([](const std::string& algorithm, int lanes, int64_t chunk_pixels, int tile,
                       int split_k) {
             return ForcedPlan{parse_algorithm(algorithm), lanes, chunk_pixels, tile, split_k};
           }),
           py::arg("algorithm"), py::arg("lanes") = 0, py::arg("chunk_pixels") = 0,
           py::arg("tile") = -1, py::arg("split_k") = 0);

  py::class_<PlanRequest>(m, "PlanRequest")
      .def(py::init([](const ConvShape& shape, const std::string& pass, const std::string& dtype,
                       const std::string& device) {
             PlanRequest request;
             request.shape = shape;
             request.pass = parse_pass(pass);
             request.dtype = parse_dtype(dtype);
             request.device = parse_device(device);
             return request;
           }),
           py::arg("shape"), py::arg("pass_"), py::arg("dtype"), py::arg("device"))
      .def_readwrite("tf32", &PlanRequest::tf32)
      .def_readwrite("deterministic", &PlanRequest::deterministic)
      .def_readwrite("channels_last", &PlanRequest::channels_last)
      .def_readwrite("output_mask", &PlanRequest::output_mask)
      .def_readwrite("im2col_step", &PlanRequest::im2col_step)
      .def_readwrite("forced", &PlanRequest::forced);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  bind_values(m);
  m.def("output_size", &output_size, "Output length along one axis of a convolution.");
  m.def("make_plan", &make_plan);
  m.def("why_not", [](const std::string& algorithm, const PlanRequest& request) {
    return why_not(parse_algorithm(algorithm), request);
  });
  m.def("why_not_packed", &why_not_packed);
  m.def("packed_sizes", [](const PlanRequest& request) {
    return packed_sizes(request.shape, fused_math(request));
  });
  m.def("devices", [] {
    std::vector<std::string> names;
    for (const DeviceInfo& info : device_presets()) names.push_back(info.name);
    return names;
  });
  m.def("forced_plan", &forced_plan);
  m.def("exchange_forced_plan", &exchange_forced_plan);
  m.def("last_plan", &last_plan);
}
