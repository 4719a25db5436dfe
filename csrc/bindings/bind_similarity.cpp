// dcfast._core.similarity. dcfast.similarity is the public face.
#include "bindings/boundary.hpp"

namespace dcfast::bindings {

void bind_similarity(py::module_& m) {
  bind_centroids(m);
  bind_embeddings(m);
  bind_hamming(m);
}

}  // namespace dcfast::bindings
