#include "core/filters/model_file.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>

#include "core/system/error.hpp"

namespace dcfast::model_file {

namespace {

constexpr std::int32_t kMagic = 793712314;
constexpr std::int32_t kVersion = 12;
constexpr std::int32_t kHierarchicalSoftmax = 1;
constexpr std::int32_t kSupervised = 3;
constexpr std::int32_t kMaxDim = 4096;
constexpr std::int32_t kMaxNgram = 64;       // longer ones make a long word cost hours
constexpr std::int32_t kMaxBucket = 1 << 26;  // a bit for each is held
constexpr std::int64_t kMaxCount = 1'000'000'000'000'000;  // what fastText starts the sums of its tree at
constexpr std::uint64_t kMaxDecodedBytes = std::uint64_t{256} << 20;
constexpr std::size_t kCodes = 256;

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  template <typename... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    throw Error(Code::corrupt_data, cat(parts...), path_, at_);
  }

  std::span<const std::byte> take(std::uint64_t size, const char* what) {
    if (size > bytes_.size() - at_) refuse("the file ends in ", what);
    const auto part = bytes_.subspan(at_, size);
    at_ += part.size();
    return part;
  }

  template <typename T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  /// Up to a NUL, which is passed.
  std::string_view text(const char* what) {
    const char* const begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    const std::size_t left = bytes_.size() - at_;
    const void* const end = left == 0 ? nullptr : std::memchr(begin, 0, left);
    if (end == nullptr) refuse("the file ends in ", what);
    const auto size = static_cast<std::size_t>(static_cast<const char*>(end) - begin);
    at_ += size + 1;
    return {begin, size};
  }

  std::vector<float> floats(std::uint64_t count, const char* what) {
    const auto raw = take(checked_mul(count, sizeof(float), what), what);
    std::vector<float> values(raw.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), raw.data(), raw.size());
    return values;
  }

  const std::string& path() const { return path_; }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  const std::string& path_;
};

template <typename... Parts>
[[noreturn]] void other_kind(const Cursor& in, const Parts&... parts) {
  throw Error(Code::invalid_argument, cat("fastText model with ", parts..., " is not read by dcfast's own code"), in.path());
}

Shape read_header(Cursor& in) {
  if (in.number<std::int32_t>("its header") != kMagic) in.refuse("no fastText model");
  const auto version = in.number<std::int32_t>("its header");
  if (version != kVersion) other_kind(in, "format version ", version);
  std::array<std::int32_t, 12> args{};
  for (std::int32_t& arg : args) arg = in.number<std::int32_t>("its arguments");
  in.number<double>("its arguments");
  const auto [dim, ws, epoch, min_count, neg, word_ngrams, loss, model, bucket, minn, maxn, update_rate] = args;
  if (model != kSupervised) other_kind(in, "model ", model);
  if (loss != kHierarchicalSoftmax) other_kind(in, "loss ", loss);
  if (word_ngrams > 1) other_kind(in, "n-grams of words");
  if (dim < 1 || dim > kMaxDim) in.refuse("a model of ", dim, " dimensions");
  if (maxn > kMaxNgram) in.refuse("n-grams of ", maxn, " characters");
  if (bucket < 1 || bucket > kMaxBucket) other_kind(in, bucket, " buckets");
  return {dim, static_cast<std::uint32_t>(bucket), minn, maxn, 0, 0};
}

void read_dictionary(Cursor& in, Contents& model) {
  const auto size = in.number<std::int32_t>("its dictionary");
  const auto words = in.number<std::int32_t>("its dictionary");
  const auto labels = in.number<std::int32_t>("its dictionary");
  in.number<std::int64_t>("its dictionary");
  const auto kept = in.number<std::int64_t>("its dictionary");
  if (words < 0 || labels < 1 || std::int64_t{words} + labels != size) in.refuse("a dictionary whose sizes disagree");
  model.shape.words = words;
  model.shape.labels = labels;
  for (std::int32_t i = 0; i < size; ++i) {
    model.words.push_back(in.text("its words"));
    const auto count = in.number<std::int64_t>("its words");
    if (in.number<std::int8_t>("its words") != (i < words ? 0 : 1)) in.refuse("a label among words, or a word among labels");
    if (i < words) continue;
    if (count < 0 || count >= kMaxCount) in.refuse("a label that was seen ", count, " times");
    model.label_counts.push_back(count);
  }
  model.pruned = kept >= 0;
  for (std::int64_t i = 0; i < kept; ++i) {
    const auto bucket = in.number<std::int32_t>("its n-grams");
    const auto row = in.number<std::int32_t>("its n-grams");
    if (bucket < 0 || static_cast<std::uint32_t>(bucket) >= model.shape.bucket || row < 0) in.refuse("an n-gram out of range");
    model.kept.emplace_back(static_cast<std::uint32_t>(bucket), static_cast<std::uint32_t>(row));
  }
}

/// A product quantiser: vectors of `dim`, a code for each `width` of them.
struct Quantiser {
  std::uint64_t dim = 0;
  std::uint64_t width = 0;
  std::uint64_t parts = 0;
  std::vector<float> centroids;

  /// The `last` part is narrower where width does not divide dim.
  std::uint64_t size(std::uint64_t part) const { return std::min(width, dim - part * width); }
  const float* centroid(std::uint64_t part, std::uint8_t code) const {
    return &centroids[part * kCodes * width + code * size(part)];
  }
};

Quantiser read_quantiser(Cursor& in, std::int32_t expected_dim) {
  const auto dim = in.number<std::int32_t>("its quantiser");
  const auto parts = in.number<std::int32_t>("its quantiser");
  const auto width = in.number<std::int32_t>("its quantiser");
  const auto last = in.number<std::int32_t>("its quantiser");
  if (dim != expected_dim || width < 1 || width > dim || parts != (dim + width - 1) / width || last != dim - (parts - 1) * width) {
    in.refuse("a quantiser whose sizes disagree");
  }
  const auto wide = static_cast<std::uint64_t>(dim);
  return {wide, static_cast<std::uint64_t>(width), static_cast<std::uint64_t>(parts), in.floats(wide * kCodes, "its quantiser")};
}

void read_quantised(Cursor& in, Contents& model) {
  const bool has_norms = in.number<std::uint8_t>("its rows") != 0;
  const auto rows = in.number<std::int64_t>("its rows");
  const auto dim = in.number<std::int64_t>("its rows");
  const auto num_codes = in.number<std::int32_t>("its rows");
  if (rows < 0 || dim != model.shape.dim || num_codes < 0) in.refuse("rows whose sizes disagree");
  const auto codes = in.take(static_cast<std::uint64_t>(num_codes), "its rows");
  const Quantiser vectors = read_quantiser(in, model.shape.dim);
  model.input_rows = static_cast<std::uint64_t>(rows);
  if (checked_mul(model.input_rows, vectors.parts, "rows") != codes.size()) in.refuse("rows whose sizes disagree");
  if (checked_mul(model.input_rows, vectors.dim * sizeof(float), "rows") > kMaxDecodedBytes) {
    other_kind(in, rows, " quantised rows");
  }
  const auto norm_codes = in.take(has_norms ? model.input_rows : 0, "its norms");
  const Quantiser norms = has_norms ? read_quantiser(in, 1) : Quantiser{};
  model.quantised_input.reserve(model.input_rows * vectors.dim);
  for (std::uint64_t row = 0; row < model.input_rows; ++row) {
    const float norm = has_norms ? *norms.centroid(0, static_cast<std::uint8_t>(norm_codes[row])) : 1.0F;
    for (std::uint64_t part = 0; part < vectors.parts; ++part) {
      const float* const values = vectors.centroid(part, static_cast<std::uint8_t>(codes[row * vectors.parts + part]));
      for (std::uint64_t i = 0; i < vectors.size(part); ++i) model.quantised_input.push_back(norm * values[i]);
    }
  }
}

/// The rows of a matrix of `dim` columns, and their floats.
std::pair<std::uint64_t, std::span<const std::byte>> read_dense(Cursor& in, std::int32_t dim, const char* what) {
  const auto rows = in.number<std::int64_t>(what);
  const auto columns = in.number<std::int64_t>(what);
  if (rows < 0 || columns != dim) in.refuse("a matrix whose sizes disagree");
  const auto wide = static_cast<std::uint64_t>(rows);
  return {wide, in.take(checked_mul(wide, static_cast<std::uint64_t>(dim) * sizeof(float), what), what)};
}

void check_rows(const Cursor& in, const Contents& model) {
  const auto words = static_cast<std::uint64_t>(model.shape.words);
  std::uint64_t behind = model.pruned ? 0 : model.shape.bucket;
  for (const auto& [bucket, row] : model.kept) behind = std::max(behind, std::uint64_t{row} + 1);
  // without n-grams of characters fastText looks at the rows of words alone
  if (!model.pruned && model.shape.max_ngram < 1) behind = 0;
  if (model.input_rows < words + behind) in.refuse("fewer rows than words and n-grams");
}

}  // namespace

Contents read(std::span<const std::byte> bytes, const std::string& path) {
  Cursor in(bytes, path);
  Contents model;
  model.shape = read_header(in);
  read_dictionary(in, model);
  if (in.number<std::uint8_t>("its rows") != 0) {
    read_quantised(in, model);
  } else {
    if (model.pruned) in.refuse("n-grams are left out of rows that are not quantised");
    std::tie(model.input_rows, model.dense_input) = read_dense(in, model.shape.dim, "its rows");
  }
  check_rows(in, model);
  if (in.number<std::uint8_t>("its labels") != 0) other_kind(in, "quantised labels");
  const auto [rows, output] = read_dense(in, model.shape.dim, "its labels");
  if (rows != static_cast<std::uint64_t>(model.shape.labels)) in.refuse("not as many rows as labels");
  model.output.resize(output.size() / sizeof(float));
  std::memcpy(model.output.data(), output.data(), output.size());
  return model;
}

}  // namespace dcfast::model_file
