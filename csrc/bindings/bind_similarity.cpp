#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_similarity(py::module_&) {}

}  // namespace dcfast::bindings
