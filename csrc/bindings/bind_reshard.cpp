#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_reshard(py::module_&) {}

}  // namespace dcfast::bindings
