#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_tar_index(py::module_&) {}

}  // namespace dcfast::bindings
