// dcfast._core.system: MappedFile. dcfast.storage.mapped is the public face.
#include "bindings/boundary.hpp"

namespace dcfast::bindings {

namespace {

/// Raises what is wrong in the main thread, between two steps of its Python code.
int raise_lost(void*) {
  try {
    refuse_lost_maps();
  } catch (const Error&) {
    // pybind11 translates what a function of it throws: one is called that throws the same
    try {
      py::module_::import("dcfast._core").attr("system").attr("refuse_lost_maps")();
    } catch (py::error_already_set& error) {
      error.restore();
      return -1;
    }
  }
  return 0;
}

// the fault is in the middle of a read of mapped memory, where nobody holds the lock of Python's list of calls
void ask_for_error() noexcept { (void)Py_AddPendingCall(&raise_lost, nullptr); }

}  // namespace

void bind_system(py::module_& m) {
  on_lost_map(&ask_for_error);
  py::class_<MappedFile>(m, "MappedFile", py::buffer_protocol(),
                         "A whole file mapped, read-only: a buffer. See dcfast.storage.mapped for one that is cut meanwhile.")
      .def(py::init([](const RawText& path) { return std::make_unique<MappedFile>(path); }), "path"_a)
      .def("__len__", [](const MappedFile& file) { return file.bytes().size(); })
      .def_buffer([](MappedFile& file) { return buffer_of(file.bytes()); });
  m.def("guard_maps", &guard_maps, "Takes SIGBUS for the maps again, where a library has taken it since.");
  m.def("count_lost_maps", &count_lost_maps, "How many mapped files were cut so far while they were mapped.");
  m.def("refuse_maps_lost_since", &refuse_maps_lost_since, "count"_a,
        "CorruptDataError where a mapped file was cut since count_lost_maps() was count, whether its map is there or not.");
  m.def("refuse_lost_maps", &refuse_lost_maps, "CorruptDataError where a file that is mapped was cut meanwhile.");
}

}  // namespace dcfast::bindings
