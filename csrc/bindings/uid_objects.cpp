#include "bindings/uid_objects.hpp"

#include <structmember.h>

#include <atomic>
#include <optional>

#include "core/uids/uid_text.hpp"

namespace dcfast::bindings {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 14;
constexpr std::size_t kAtOnce = std::size_t{1} << 20;  // items between two looks for Ctrl-C
constexpr std::size_t kAhead = 16;                     // items whose memory is asked for before they are read

/// A whole number from 0 to 2^128 - 1 as a uid; false for any other. Reads memory alone, where the API could raise an error.
bool read_int(const PyObject* object, Uid& out) {
  const auto* const number = reinterpret_cast<const PyLongObject*>(object);
#if PY_VERSION_HEX >= 0x030C0000
  const std::uintptr_t tag = number->long_value.lv_tag;
  const digit* const digits = number->long_value.ob_digit;
  if ((tag & 3) == 2) return false;  // negative
  const std::size_t count = (tag & 3) == 1 ? 0 : tag >> 3;
#else
  const Py_ssize_t size = Py_SIZE(number);
  const digit* const digits = number->ob_digit;
  if (size < 0) return false;
  const auto count = static_cast<std::size_t>(size);
#endif
  constexpr std::size_t most = (128 + PyLong_SHIFT - 1) / PyLong_SHIFT;
  if (count > most || (count == most && digits[most - 1] >> (128 - PyLong_SHIFT * (most - 1)) != 0)) return false;
  unsigned __int128 value = 0;
  for (std::size_t k = count; k-- > 0;) value = (value << PyLong_SHIFT) | digits[k];
  out = {static_cast<std::uint64_t>(value >> 64), static_cast<std::uint64_t>(value)};
  return true;
}

/// Where uuid.UUID keeps its number.
class UuidReader {
 public:
  UuidReader() {
    // who has a UUID has imported its module
    type_ = py::reinterpret_steal<py::object>(PyImport_GetModule(py::str("uuid").ptr()));
    PyErr_Clear();
    type_ = type_ ? py::getattr(type_, "UUID", py::none()) : py::none();
    if (type_.is_none() || !PyType_Check(type_.ptr())) {
      type_ = {};
      return;
    }
    const py::object slot = py::getattr(type_, "int", py::none());
    if (Py_TYPE(slot.ptr()) != &PyMemberDescr_Type) return;
    const PyMemberDef* const member = reinterpret_cast<PyMemberDescrObject*>(slot.ptr())->d_member;
    if (member->type == T_OBJECT_EX) place_ = member->offset;
  }

  /// The number of an object of just this class, or null: it is another, or has none.
  const PyObject* number(const PyObject* item) const {
    if (place_ == 0 || reinterpret_cast<PyObject*>(Py_TYPE(item)) != type_.ptr()) return nullptr;
    const PyObject* const number = *reinterpret_cast<PyObject* const*>(reinterpret_cast<const char*>(item) + place_);
    return number != nullptr && PyLong_Check(number) ? number : nullptr;
  }

  /// By Python's own means; false where the item is no UUID.
  bool read(py::handle item, Uid& out) const {
    if (!type_ || !py::isinstance(item, type_)) return false;
    const py::object number = item.attr("int");
    if (!PyLong_Check(number.ptr()) || !read_int(number.ptr(), out)) {
      throw py::value_error("texts holds a UUID whose int is " + std::string(py::repr(number)) + ": expected 0 to 2**128 - 1");
    }
    return true;
  }

 private:
  py::object type_;
  Py_ssize_t place_ = 0;
};

enum class Kind { uid, none, other };

/// Reads memory alone. `other`: not one of the usual objects.
Kind read_object(const UuidReader& uuids, PyObject* item, Uid& out) {
  const char* text = nullptr;
  Py_ssize_t size = 0;
  if (PyUnicode_Check(item)) {
#if PY_VERSION_HEX < 0x030C0000
    if (!PyUnicode_IS_READY(item)) return Kind::other;
#endif
    // hex digits are ASCII; any other string cannot be a uid
    if (PyUnicode_IS_ASCII(item)) {
      text = static_cast<const char*>(PyUnicode_DATA(item));  // of a subclass, too: NumPy's texts are one
      size = PyUnicode_GET_LENGTH(item);
    }
  } else if (PyBytes_Check(item)) {
    text = PyBytes_AS_STRING(item);
    size = PyBytes_GET_SIZE(item);
  } else if (const PyObject* const number = uuids.number(item)) {
    return read_int(number, out) ? Kind::uid : Kind::other;
  } else if (item != Py_None) {
    return Kind::other;
  }
  return parse_uid_or_uuid({text, static_cast<std::size_t>(size)}, out) ? Kind::uid : Kind::none;
}

/// Reads items; those of kind `other` get valid = false, and the first of them is noted.
std::size_t read_objects(const UuidReader& uuids, std::span<PyObject* const> items, Uid* out, bool* valid, std::atomic<bool>& others) {
  std::size_t good = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i + 2 * kAhead < items.size()) {
      __builtin_prefetch(items[i + 2 * kAhead]);
      __builtin_prefetch(reinterpret_cast<const char*>(items[i + 2 * kAhead]) + 64);
    }
    if (i + kAhead < items.size()) {
      if (const PyObject* const number = uuids.number(items[i + kAhead])) __builtin_prefetch(number);
    }
    const Kind kind = read_object(uuids, items[i], out[i]);
    valid[i] = kind == Kind::uid;
    good += valid[i] ? 1 : 0;
    if (kind == Kind::other) {
      out[i] = Uid{};
      others.store(true, std::memory_order_relaxed);
    }
  }
  return good;
}

/// One that takes Python's own means, which may run any code: the list may be another afterwards.
bool read_slowly(const UuidReader& uuids, const py::object& item, std::size_t at, Uid& out) {
#if PY_VERSION_HEX < 0x030C0000
  if (PyUnicode_Check(item.ptr()) && PyUnicode_READY(item.ptr()) != 0) throw py::error_already_set();
#endif
  const Kind kind = read_object(uuids, item.ptr(), out);
  if (kind != Kind::other) return kind == Kind::uid;
  if (uuids.read(item, out)) return true;
  throw py::type_error(cat("texts must hold str, bytes, uuid.UUID or None; got ", Py_TYPE(item.ptr())->tp_name, " at index ", at));
}

}  // namespace

std::size_t parse_uid_objects(const py::list& texts, std::span<Uid> out, std::span<bool> valid, unsigned threads) {
  const UuidReader uuids;
  std::size_t total = 0;
  const auto check_size = [&] {
    // a handler of a signal may have changed the list, and so may a class
    if (static_cast<std::size_t>(PyList_GET_SIZE(texts.ptr())) != out.size()) throw py::value_error("texts changed while it was read");
  };
  for (std::size_t begin = 0; begin < out.size(); begin += kAtOnce) {
    if (begin > 0 && PyErr_CheckSignals() != 0) throw py::error_already_set();
    check_size();
    const std::span<PyObject* const> items(reinterpret_cast<PyListObject*>(texts.ptr())->ob_item + begin, std::min(kAtOnce, out.size() - begin));
    std::atomic<std::size_t> good{0};
    std::atomic<bool> others{false};
    parallel_for((items.size() + kBlock - 1) / kBlock, threads, [&](std::size_t k) {
      const std::size_t from = k * kBlock;
      const std::span<PyObject* const> some = items.subspan(from, std::min(kBlock, items.size() - from));
      good += read_objects(uuids, some, out.data() + begin + from, valid.data() + begin + from, others);
    });
    total += good;
    for (std::size_t i = begin; others && i < begin + items.size(); ++i) {
      if (valid[i]) continue;
      check_size();
      valid[i] = read_slowly(uuids, py::reinterpret_borrow<py::object>(PyList_GET_ITEM(texts.ptr(), static_cast<Py_ssize_t>(i))), i, out[i]);
      total += valid[i] ? 1 : 0;
    }
  }
  return total;
}

}  // namespace dcfast::bindings
