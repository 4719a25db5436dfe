// XXH3 hashes (seed 0) of buffers, files and ranges of files. A 128-bit hash is given as Uid{high, low},
// the canonical order, so that hashes sort, merge and look up as uids do.
#pragma once

#include "core/system/file.hpp"
#include "core/system/parallel.hpp"
#include "core/uids/uid.hpp"

namespace dcfast {

Uid xxh3_128(std::span<const std::byte> bytes);
std::uint64_t xxh3_64(std::span<const std::byte> bytes);

/// XXH3-128 of a whole file, read in pieces of 512 KiB. Throws io.
Uid hash_file(const std::string& path, const Poll& poll = {});

/// The same of bytes of an open file. Throws corrupt_data where it ends before they do.
Uid hash_range(const File& file, std::uint64_t offset, std::uint64_t size, const Poll& poll = {});

/// out[i] = XXH3-128 of the bytes [offsets[i], offsets[i] + sizes[i]) of the file. Ranges may come in any
/// order, overlap and repeat. Near ranges are read together (one pread of at most 1 MiB), long ones in
/// pieces: memory is at most 1 MiB a thread beside 24 bytes a range, however long the ranges are.
/// Throws corrupt_data with path and offset of the first range (in argument order) that ends beyond the
/// end of the file; io where a read fails; invalid_argument where the spans differ in length.
void hash_ranges(const std::string& path, std::span<const std::uint64_t> offsets, std::span<const std::uint64_t> sizes,
                 std::span<Uid> out, unsigned threads, const Poll& poll = {});

/// The same of ranges of memory. Throws invalid_argument for a range that ends beyond the bytes. Memory: 8 bytes a MiB
/// hashed. Cost: one read, at memory speed where the machine has AVX2.
void hash_ranges(std::span<const std::byte> bytes, std::span<const std::uint64_t> offsets,
                 std::span<const std::uint64_t> sizes, std::span<Uid> out, unsigned threads, const Poll& poll = {});

}  // namespace dcfast
