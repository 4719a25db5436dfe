#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_uid_set(py::module_&) {}

}  // namespace dcfast::bindings
