// dcfast._cuda: the GPU library for Python. Built where nvcc is found; absent otherwise.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/device.h"
#include "cuda/select.h"

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

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

dcfast_select_problem problem_of(std::uintptr_t rows, std::uintptr_t cols, std::int32_t row_count, std::int32_t col_count,
                                 std::int32_t depth, std::int32_t dtype, std::int32_t schedule) {
  return {pointer<const void>(rows), pointer<const void>(cols), row_count, col_count, depth, dtype, schedule, 0};
}

void select_best(std::uintptr_t rows, std::uintptr_t cols, std::int32_t row_count, std::int32_t col_count, std::int32_t depth,
                 std::int32_t dtype, std::int32_t schedule, std::uintptr_t best, std::uintptr_t second, std::int32_t device,
                 std::uintptr_t stream) {
  const dcfast_select_problem problem = problem_of(rows, cols, row_count, col_count, depth, dtype, schedule);
  int code = 0;
  {
    const py::gil_scoped_release release;
    code = dcfast_select_best(&problem, pointer<std::uint64_t>(best), pointer<std::uint32_t>(second), device,
                              pointer<void>(stream));
  }
  check(code, "selecting the best columns on the GPU");
}

void select_above(std::uintptr_t rows, std::uintptr_t cols, std::int32_t row_count, std::int32_t col_count,
                  std::int32_t depth, std::int32_t dtype, std::int32_t schedule, std::uintptr_t threshold,
                  std::uintptr_t keys, std::uint64_t capacity, std::uintptr_t count, std::int32_t device,
                  std::uintptr_t stream) {
  const dcfast_select_problem problem = problem_of(rows, cols, row_count, col_count, depth, dtype, schedule);
  int code = 0;
  {
    const py::gil_scoped_release release;
    code = dcfast_select_above(&problem, pointer<const float>(threshold), pointer<std::uint64_t>(keys), capacity,
                               pointer<unsigned long long>(count), device, pointer<void>(stream));
  }
  check(code, "joining by a threshold on the GPU");
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The CUDA library of dcfast.";
  m.attr("build_version") = dcfast_cuda_build_version();
  m.def("devices", &devices, "One dict for each usable GPU. RuntimeError where there is no driver or card.");
  m.def("self_test", &self_test, py::arg("device") = 0, py::arg("stream") = 0,
        "Runs a kernel on the GPU and checks its output. Stream: an integer handle; synchronised on return.");
  // Addresses on the device, of arrays that the caller keeps until the stream has done the work (cuda/select.h).
  m.attr("select_built") = dcfast_select_built() != 0;
  m.def("select_best", &select_best, py::arg("rows"), py::arg("cols"), py::arg("row_count"), py::arg("col_count"),
        py::arg("depth"), py::arg("dtype"), py::arg("schedule"), py::arg("best"), py::arg("second"), py::arg("device"),
        py::arg("stream"), "The two best columns of each row. RuntimeError: another card, no kernels, a bad shape.");
  m.def("select_above", &select_above, py::arg("rows"), py::arg("cols"), py::arg("row_count"), py::arg("col_count"),
        py::arg("depth"), py::arg("dtype"), py::arg("schedule"), py::arg("threshold"), py::arg("keys"),
        py::arg("capacity"), py::arg("count"), py::arg("device"), py::arg("stream"),
        "Pairs at or above each row's threshold. RuntimeError: another card, no kernels, a bad shape.");
}
