// dcfast._core: the table of contents, and the one translator from core errors to Python exceptions.
#include <cerrno>

#include "bindings/boundary.hpp"

namespace {

namespace py = pybind11;
using dcfast::Code;

// The classes live in dcfast.errors alone and are looked up when something is raised, so that neither
// module needs the other to be imported.
void translate(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const dcfast::Error& error) {
    if (error.code() == Code::io) {
      errno = error.os_errno();
      const py::object type = py::module_::import("builtins").attr("OSError");
      const py::object value = type(error.os_errno(), error.message(), error.path());
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())), value.ptr());
      return;
    }
    std::string text = error.message();
    if (!error.path().empty()) {
      text += " (file " + error.path();
      if (error.offset()) text += ", offset " + std::to_string(*error.offset());
      text += ")";
    }
    if (error.code() == Code::corrupt_data) {
      const py::object type = py::module_::import("dcfast.errors").attr("CorruptDataError");
      const py::object offset = error.offset() ? py::object(py::int_(*error.offset())) : py::object(py::none());
      const py::object value = type(text, py::arg("path") = error.path(), py::arg("offset") = offset);
      PyErr_SetObject(type.ptr(), value.ptr());
    } else {
      PyErr_SetString(PyExc_ValueError, text.c_str());
    }
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of dcfast. Use the functions of the package, which check their arguments.";
  m.attr("version") = DCFAST_VERSION;
  PYBIND11_NUMPY_DTYPE_EX(dcfast::Uid, hi, "f0", lo, "f1");
  py::register_exception_translator(&translate);
  dcfast::bindings::bind_hashing(m);
  dcfast::bindings::bind_picture(m);
  dcfast::bindings::bind_reshard(m);
  dcfast::bindings::bind_similarity(m);
  dcfast::bindings::bind_tar_index(m);
  dcfast::bindings::bind_uid_set(m);
}
