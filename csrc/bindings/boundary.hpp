// The boundary: checked views of NumPy arrays, NumPy arrays that own a std::vector, and the one door
// (enter_core) through which every call goes: arguments converted first, GIL released, Ctrl-C polled.
// Arguments and results carry their types (Array<T>, RawText, std::tuple): the stubs in python/dcfast/_core are
// made from the signatures.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/system/error.hpp"
#include "core/system/mapped_file.hpp"
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

/// An array of T. As an argument any array is taken: `borrow` refuses those of another dtype, with its own words.
template <typename T>
class Array : public py::array {
 public:
  PYBIND11_OBJECT(Array, py::array, is_array)

 private:
  static bool is_array(PyObject* object) { return py::isinstance<py::array>(object); }
};

/// Bytes that need not be text: a path (os.fsencode), the name of a member. Python gives bytes, or str for its UTF-8.
struct RawText : std::string {
  RawText() = default;
  explicit RawText(std::string&& text) : std::string(std::move(text)) {}
};

inline std::vector<std::string> strings_of(std::vector<RawText>&& texts) {
  return {std::make_move_iterator(texts.begin()), std::make_move_iterator(texts.end())};
}

/// A borrowed view of a one-dimensional, C-contiguous array of exactly T (no casts, no copies).
/// `name` is the Python argument, for the message. The caller's array must outlive the view.
template <typename T>
std::span<const T> borrow(const Array<T>& array, const char* name) {
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

/// A NumPy array that owns the vector's memory: nothing is copied.
template <typename T>
Array<T> own(std::vector<T>&& values) {
  auto holder = std::make_unique<std::vector<T>>(std::move(values));
  T* data = holder->data();
  const auto size = static_cast<py::ssize_t>(holder->size());
  py::capsule base(holder.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  holder.release();
  return Array<T>(py::array(dtype_of<T>(), {size}, {static_cast<py::ssize_t>(sizeof(T))}, data, base));
}

/// Releases the GIL and calls run(poll). `poll` may be called from the calling thread only: every 50 ms
/// it takes the GIL and lets a pending Ctrl-C through as KeyboardInterrupt. No py:: object may be
/// touched inside `run`. A mapped file that was cut meanwhile is an error, whatever came of it.
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
  try {
    if constexpr (std::is_void_v<decltype(run(poll))>) {
      run(poll);
      refuse_lost_maps();
    } else {
      auto result = run(poll);
      refuse_lost_maps();
      return result;
    }
  } catch (const Error&) {
    refuse_lost_maps();  // the cause, where what was read made no sense
    throw;
  }
}

void bind_access(py::module_& m);
void bind_filters(py::module_& m);
void bind_hashing(py::module_& m);
void bind_images(py::module_& m);
void bind_index(py::module_& m);
void bind_reshard(py::module_& m);
void bind_similarity(py::module_& m);
void bind_system(py::module_& m);
void bind_uids(py::module_& m);

}  // namespace dcfast::bindings

namespace pybind11::detail {

template <typename T>
constexpr auto dtype_name() {
  if constexpr (std::is_class_v<T>) {
    return const_name("numpy.void");
  } else if constexpr (std::is_same_v<T, bool>) {
    return const_name("numpy.bool_");
  } else if constexpr (std::is_floating_point_v<T>) {
    return const_name("numpy.float") + const_name<8 * sizeof(T)>();
  } else {
    static_assert(std::is_integral_v<T>);
    return const_name<std::is_signed_v<T>>("numpy.int", "numpy.uint") + const_name<8 * sizeof(T)>();
  }
}

template <typename T>
struct handle_type_name<dcfast::bindings::Array<T>> {
  static constexpr auto name = const_name("numpy.typing.NDArray[") + dtype_name<T>() + const_name("]");
};

template <>
struct type_caster<dcfast::bindings::RawText> {
  PYBIND11_TYPE_CASTER(dcfast::bindings::RawText, const_name("bytes | str"));

  bool load(handle source, bool convert) {
    make_caster<std::string> inner;
    if (!inner.load(source, convert)) return false;
    value = dcfast::bindings::RawText(cast_op<std::string&&>(std::move(inner)));
    return true;
  }
};

}  // namespace pybind11::detail
