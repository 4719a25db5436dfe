// The boundary: checked views of NumPy arrays, NumPy arrays that own a std::vector, and the one door
// (enter_core) through which every call goes: arguments converted first, GIL released, Ctrl-C polled.
// Arguments and results carry their types (Input<T>, Array<T>, RawText, std::tuple): the stubs in python/dcfast/_core
// are made from the signatures.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <chrono>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/system/error.hpp"
#include "core/system/mapped_file.hpp"
#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast::bindings {

namespace py = pybind11;
using namespace py::literals;  // "name"_a

/// Tells pybind11 about the core's structured dtypes, once. When the first is asked for, not when the module is imported:
/// this imports NumPy, which takes longer than a small reshard.
void register_records();

template <typename T>
py::dtype dtype_of() {
  if constexpr (std::is_class_v<T>) register_records();
  return py::dtype::of<T>();
}

/// An array of T: a result, or an argument that is any array.
template <typename T>
class Array : public py::array {
 public:
  PYBIND11_OBJECT(Array, py::array, is_array)

 private:
  static bool is_array(PyObject* object) { return py::isinstance<py::array>(object); }
};

/// A text as a template argument.
template <std::size_t N>
struct Name {
  char chars[N]{};
  consteval Name(const char (&text)[N]) { std::ranges::copy(text, chars); }
};

/// Any object; `type` is what the stubs say of it.
template <Name type>
class Hinted : public py::object {
 public:
  PYBIND11_OBJECT(Hinted, py::object, is_any)

 private:
  static bool is_any(PyObject*) { return true; }
};

/// An argument of that name, held for the call: a one-dimensional, C-contiguous array of exactly T (no casts, no copies).
template <typename T, Name argument>
struct Input {
  Input() = default;
  explicit Input(const Array<T>& array) : held(array) {
    const std::string name = argument.chars;
    const py::dtype expected = dtype_of<T>();
    if (!array.dtype().equal(expected)) {
      throw py::type_error(cat(name, " must have dtype ", shown(expected), "; got ", shown(array.dtype())));
    }
    if (array.ndim() != 1) throw py::value_error(cat(name, " must be one-dimensional; got shape ", shown(array.attr("shape"))));
    if (array.size() > 1 && array.strides(0) != static_cast<py::ssize_t>(sizeof(T))) {
      throw py::value_error(cat(name, " must be contiguous; pass numpy.ascontiguousarray(", name, ")"));
    }
    view = {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
    if (!view.empty() && reinterpret_cast<std::uintptr_t>(view.data()) % alignof(T) != 0) {
      throw py::value_error(cat(name, " must be aligned to ", alignof(T), " bytes; pass a copy"));
    }
  }
  static std::string shown(const py::object& object) { return py::str(object); }

  py::object held;
  std::span<const T> view;
};

/// An argument of that name with the buffer protocol (bytes, a map, a NumPy array), held for as long as a copy of this is
/// there: no NumPy is needed for it. None for nothing, but where it is bytes that are asked for.
template <typename T, Name argument>
struct Buffer {
  static constexpr bool is_bytes = std::is_same_v<T, std::byte>;

  Buffer() = default;
  explicit Buffer(py::handle object) {
    if (object.is_none() && !is_bytes) return;
    held = std::make_shared<Held>();
    if (PyObject_GetBuffer(object.ptr(), &held->memory, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    const auto bytes = static_cast<std::size_t>(held->memory.len);
    if (bytes % sizeof(T) != 0) throw py::value_error(cat(argument.chars, " has a length that is no multiple of its items"));
    if (bytes > 0 && reinterpret_cast<std::uintptr_t>(held->memory.buf) % alignof(T) != 0) {
      throw py::value_error(cat(argument.chars, " is not aligned; pass a copy"));
    }
    view = {static_cast<const T*>(held->memory.buf), bytes / sizeof(T)};
  }

  struct Held {
    ~Held() { PyBuffer_Release(&memory); }
    Py_buffer memory{};
  };
  std::shared_ptr<Held> held;  // null for None
  std::span<const T> view;
};

/// Bytes that need not be text: a path (os.fsencode), the name of a member. Python gives bytes, or str for its UTF-8.
struct RawText : std::string {
  RawText() = default;
  explicit RawText(std::string&& text) : std::string(std::move(text)) {}
};

inline std::vector<std::string> strings_of(std::vector<RawText>&& texts) {
  return {std::make_move_iterator(texts.begin()), std::make_move_iterator(texts.end())};
}

/// Text whose bytes need not be UTF-8: those that are not become \xNN.
inline py::str escaped_text(std::string_view text) {
  PyObject* const decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "backslashreplace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

inline std::span<const char> chars_of(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Throws ValueError where arguments that go together have not one length.
template <typename... Arguments>
void check_one_length(const char* message, const auto& first, const Arguments&... others) {
  if (((others.view.size() != first.view.size()) || ...)) throw py::value_error(message);
}

/// A NumPy array that owns the memory of a vector or string, as items of T: nothing is copied.
template <typename T, typename Holder>
Array<T> own_as(Holder&& values) {
  auto holder = std::make_unique<Holder>(std::move(values));
  static_assert(sizeof(*holder->data()) == sizeof(T));
  auto* data = reinterpret_cast<T*>(holder->data());
  const auto size = static_cast<py::ssize_t>(holder->size());
  py::capsule base(holder.get(), [](void* p) { delete static_cast<Holder*>(p); });
  holder.release();
  return Array<T>(py::array(dtype_of<T>(), {size}, {static_cast<py::ssize_t>(sizeof(T))}, data, base));
}

template <typename T>
Array<T> own(std::vector<T>&& values) {
  return own_as<T>(std::move(values));
}

/// What a vector of bytes or of plain structs holds.
template <typename T>
py::bytes bytes_of(const std::vector<T>& items) {
  return {reinterpret_cast<const char*>(items.data()), items.size() * sizeof(T)};
}

/// A read-only buffer of memory that its object keeps.
inline py::buffer_info buffer_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), static_cast<py::ssize_t>(bytes.size()), true};
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
void bind_centroids(py::module_& m);
void bind_embeddings(py::module_& m);
void bind_filters(py::module_& m);
void bind_hamming(py::module_& m);
void bind_hashing(py::module_& m);
void bind_images(py::module_& m);
void bind_index(py::module_& m);
void bind_reshard(py::module_& m);
void bind_similarity(py::module_& m);
void bind_system(py::module_& m);
void bind_tokens(py::module_& m);
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

template <dcfast::bindings::Name type>
struct handle_type_name<dcfast::bindings::Hinted<type>> {
  static constexpr auto name = const_name(type.chars);
};

template <typename T, dcfast::bindings::Name argument>
struct type_caster<dcfast::bindings::Input<T, argument>> {
  using Input = dcfast::bindings::Input<T, argument>;
  PYBIND11_TYPE_CASTER(Input, handle_type_name<dcfast::bindings::Array<T>>::name);

  bool load(handle source, bool) {
    if (!isinstance<array>(source)) return false;
    value = Input(reinterpret_borrow<dcfast::bindings::Array<T>>(source));
    return true;
  }
};

template <typename T>
constexpr auto buffer_name() {
  if constexpr (std::is_same_v<T, std::byte>) {
    return const_name("typing_extensions.Buffer");
  } else {
    return const_name("bytes | dcfast._core.reshard.UidFile | numpy.typing.NDArray[") + dtype_name<T>() + const_name("] | None");
  }
}

template <typename T, dcfast::bindings::Name argument>
struct type_caster<dcfast::bindings::Buffer<T, argument>> {
  using Buffer = dcfast::bindings::Buffer<T, argument>;
  PYBIND11_TYPE_CASTER(Buffer, buffer_name<T>());

  bool load(handle source, bool) {
    value = Buffer(source);
    return true;
  }
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
