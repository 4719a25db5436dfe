// dcfast._core: the table of contents (a submodule for each domain), and the one translator from core errors to Python exceptions.
#include <cerrno>

#include <pybind11/gil_safe_call_once.h>

#include "bindings/boundary.hpp"
#include "core/uids/uid_set.hpp"

namespace {

namespace py = pybind11;
using dcfast::Code;
using dcfast::bindings::escaped_text;

// A path is bytes, not text: it becomes what os.fsdecode makes of it, whatever its bytes are.
py::object file_name(const std::string& path) {
  return py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<py::ssize_t>(path.size())));
}

// The classes live in dcfast.errors alone and are looked up when something is raised, so that neither
// module needs the other to be imported.
void translate(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const dcfast::Error& error) {
    if (error.code() == Code::io) {
      errno = error.os_errno();
      const py::object type = py::module_::import("builtins").attr("OSError");
      const py::object value = type(error.os_errno(), escaped_text(error.message()), file_name(error.path()));
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())), value.ptr());
      return;
    }
    py::str text = escaped_text(error.message());  // it may quote a member's name
    if (!error.path().empty()) {
      const std::string place = error.offset() ? dcfast::cat(", offset ", *error.offset()) : "";
      text = py::str("{} (file {}{})").format(text, file_name(error.path()), place);
    }
    if (error.code() == Code::corrupt_data) {
      const py::object type = py::module_::import("dcfast.errors").attr("CorruptDataError");
      const py::object offset = error.offset() ? py::object(py::int_(*error.offset())) : py::object(py::none());
      const py::object value = type(text, py::arg("path") = file_name(error.path()), py::arg("offset") = offset);
      PyErr_SetObject(type.ptr(), value.ptr());
    } else {
      PyErr_SetObject(PyExc_ValueError, text.ptr());
    }
  }
}

}  // namespace

void dcfast::bindings::register_records() {
  // the first call imports NumPy, which lets other threads run meanwhile: the GIL alone would let two of them register
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<bool> done;
  done.call_once_and_store_result([] {
    PYBIND11_NUMPY_DTYPE_EX(dcfast::Uid, hi, "f0", lo, "f1");
    PYBIND11_NUMPY_DTYPE_EX(dcfast::UidRecord, hi, "f0", lo, "f1", payload, "f2");
    return true;
  });
}

PYBIND11_MODULE(_core, m) {
  using namespace dcfast::bindings;
  m.doc() = "The compiled core of dcfast. Use the functions of the package, which check their arguments.";
  m.attr("version") = DCFAST_VERSION;
  py::register_exception_translator(&translate);
  // each is in sys.modules from here on, so that it can be imported; index before access, which takes its class
  struct Domain {
    const char* name;
    void (*bind)(py::module_&);
    const char* doc;
  };
  constexpr Domain domains[] = {
      {"filters", &bind_filters, "Most likely labels of texts by fastText models."},
      {"hashing", &bind_hashing, "XXH3 of buffers, files and ranges."},
      {"images", &bind_images, "Signatures of encoded images, and their sizes."},
      {"index", &bind_index, "Index segments of tars."},
      {"access", &bind_access, "Members of a pool's shards by range."},
      {"reshard", &bind_reshard, "Shards of selected samples, and the keyed permutation."},
      {"similarity", &bind_similarity, "Hamming distances of perceptual hashes."},
      {"system", &bind_system, "Mapped files."},
      {"tokens", &bind_tokens, "Tokens of captions."},
      {"uids", &bind_uids, "Sorted arrays of uids and of uid records."},
  };
  for (const Domain& domain : domains) {
    py::module_ submodule = m.def_submodule(domain.name, domain.doc);
    domain.bind(submodule);
  }
}
