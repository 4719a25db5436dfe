#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_hashing(py::module_&) {}

}  // namespace dcfast::bindings
