// dcfast._cuda: the GPU library for Python. Built where nvcc is found; absent otherwise.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/device.h"

namespace py = pybind11;

namespace {

void check(int code, const char* action) {
  if (code != 0) throw std::runtime_error(std::string(action) + ": " + dcfast_cuda_error_string(code));
}

py::list devices() {
  std::int32_t count = 0;
  check(dcfast_cuda_device_count(&count), "counting CUDA devices");
  py::list out;
  for (std::int32_t i = 0; i < count; ++i) {
    dcfast_cuda_device info;
    check(dcfast_cuda_device_info(i, &info), "reading the properties of a CUDA device");
    py::dict row;
    row["name"] = std::string(info.name);
    row["compute"] = py::make_tuple(info.compute_major, info.compute_minor);
    row["multiprocessors"] = info.multiprocessors;
    row["memory_bytes"] = info.memory_bytes;
    out.append(row);
  }
  return out;
}

void self_test(std::int32_t device, std::uintptr_t stream) {
  int code = 0;
  {
    const py::gil_scoped_release release;
    code = dcfast_cuda_self_test(device, reinterpret_cast<void*>(stream));
  }
  check(code, "running the self test kernel");
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The CUDA library of dcfast.";
  m.attr("build_version") = dcfast_cuda_build_version();
  m.def("devices", &devices, "One dict for each usable GPU. RuntimeError where there is no driver or card.");
  m.def("self_test", &self_test, py::arg("device") = 0, py::arg("stream") = 0,
        "Runs a kernel on the GPU and checks its output. Stream: an integer handle; synchronised on return.");
}
