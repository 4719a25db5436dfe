// The boundary: checked views of NumPy arrays, NumPy arrays that own a std::vector, and the one door
// (enter_core) through which every call goes: arguments converted first, GIL released, Ctrl-C polled.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/system/error.hpp"
#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast::bindings {

namespace py = pybind11;

/// Tells pybind11 about the core's structured dtypes, once. When the first is asked for, not when the module is imported:
/// this imports NumPy, which takes longer than a small reshard.
void register_records();

template <typename T>
py::dtype dtype_of() {
  if constexpr (std::is_class_v<T>) register_records();
  return py::dtype::of<T>();
}

/// A borrowed view of a one-dimensional, C-contiguous array of exactly T (no casts, no copies).
/// `name` is the Python argument, for the message. The caller's array must outlive the view.
template <typename T>
std::span<const T> borrow(const py::array& array, const char* name) {
  const py::dtype want = dtype_of<T>();
  if (!array.dtype().equal(want)) {
    throw py::type_error(std::string(name) + " must have dtype " + std::string(py::str(want)) + "; got " +
                         std::string(py::str(array.dtype())));
  }
  if (array.ndim() != 1) {
    throw py::value_error(std::string(name) + " must be one-dimensional; got shape " + std::string(py::str(array.attr("shape"))));
  }
  if (array.size() > 1 && array.strides(0) != static_cast<py::ssize_t>(sizeof(T))) {
    throw py::value_error(std::string(name) + " must be contiguous; pass numpy.ascontiguousarray(" + name + ")");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(array.data());
  if (array.size() > 0 && address % alignof(T) != 0) {
    throw py::value_error(std::string(name) + " must be aligned to " + std::to_string(alignof(T)) + " bytes; pass a copy");
  }
  return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

/// The same for an array to write into.
template <typename T>
std::span<T> borrow_mut(py::array& array, const char* name) {
  const auto view = borrow<T>(array, name);
  if (!array.writeable()) throw py::value_error(std::string(name) + " must be writeable");
  return {const_cast<T*>(view.data()), view.size()};
}

/// A NumPy array that owns the vector's memory: nothing is copied.
template <typename T>
py::array own(std::vector<T>&& values) {
  auto holder = std::make_unique<std::vector<T>>(std::move(values));
  T* data = holder->data();
  const auto size = static_cast<py::ssize_t>(holder->size());
  py::capsule base(holder.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  holder.release();
  return py::array(dtype_of<T>(), {size}, {static_cast<py::ssize_t>(sizeof(T))}, data, base);
}

/// Releases the GIL and calls run(poll). `poll` may be called from the calling thread only: every 50 ms
/// it takes the GIL and lets a pending Ctrl-C through as KeyboardInterrupt. No py:: object may be
/// touched inside `run`.
template <typename Run>
auto enter_core(const Run& run) {
  auto last = std::chrono::steady_clock::now();
  const Poll poll = [&last] {
    const auto now = std::chrono::steady_clock::now();
    if (now - last < std::chrono::milliseconds(50)) return;
    last = now;
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  const py::gil_scoped_release release;
  return run(poll);
}

void bind_hashing(py::module_& m);
void bind_member_read(py::module_& m);
void bind_image(py::module_& m);
void bind_reshard(py::module_& m);
void bind_similarity(py::module_& m);
void bind_tar_index(py::module_& m);
void bind_uid_set(py::module_& m);

}  // namespace dcfast::bindings
