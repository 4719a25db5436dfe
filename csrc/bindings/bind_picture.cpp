#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_picture(py::module_&) {}

}  // namespace dcfast::bindings
