// Uids of Python's objects.
#pragma once

#include <span>

#include "bindings/boundary.hpp"

namespace dcfast::bindings {

/// The uids of a list of str, bytes (of text), uuid.UUID or None: what is no uid, None too, has valid[i] false and out[i] zero.
/// Returns how many are valid. TypeError: another object.
///
/// In threads, which only read memory: the caller keeps the GIL all the while, so that nobody changes or frees an object. What
/// needs more than that (a subclass of UUID) is left to the caller's own thread.
std::size_t parse_uid_objects(const py::list& texts, std::span<Uid> out, std::span<bool> valid, unsigned threads);

}  // namespace dcfast::bindings
