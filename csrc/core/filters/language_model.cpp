#include "core/filters/language_model.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/filters/label_tree.hpp"
#include "core/filters/model_file.hpp"
#include "core/system/error.hpp"
#include "core/system/mapped_file.hpp"

namespace dcfast {

namespace {

constexpr std::uint32_t kHashBasis = 2166136261U;
constexpr std::string_view kEndOfSentence = "</s>";
constexpr std::string_view kLabelPrefix = "__label__";
constexpr std::size_t kBlock = 256;  // texts that a thread takes at a time

/// FNV-1a, but bytes above 127 are negative, as the models were trained.
std::uint32_t hashed(std::uint32_t hash, char byte) {
  return (hash ^ static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<signed char>(byte)))) * 16777619U;
}

std::uint32_t hash_of(std::string_view text) {
  std::uint32_t hash = kHashBasis;
  for (const char byte : text) hash = hashed(hash, byte);
  return hash;
}

bool is_space(char byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r') || byte == '\0'; }

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

/// value % divisor by two multiplications (Lemire, Kaser, Kurz 2019).
class Modulus {
 public:
  explicit Modulus(std::uint32_t divisor) : divisor_(divisor), inverse_(~std::uint64_t{0} / divisor + 1) {}
  std::uint32_t of(std::uint32_t value) const {
    __extension__ using Wide = unsigned __int128;
    return divisor_ == 1 ? 0 : static_cast<std::uint32_t>((Wide{inverse_ * value} * divisor_) >> 64U);
  }

 private:
  std::uint32_t divisor_;
  std::uint64_t inverse_;
};

/// Words and labels by their text. Of a text that stands there twice the last counts.
class Vocabulary {
 public:
  explicit Vocabulary(std::span<const std::string_view> words)
      : slots_(std::bit_ceil(2 * words.size() + 1), Slot{0, -1}), mask_(slots_.size() - 1) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      texts_.emplace_back(words[i]);
      slots_[find(words[i], hash_of(words[i]))] = {hash_of(words[i]), static_cast<std::int32_t>(i)};
    }
  }

  /// Its number, -1 where it is not there.
  std::int32_t number(std::string_view word) const { return slots_[find(word, hash_of(word))].number; }

 private:
  struct Slot {
    std::uint32_t hash;
    std::int32_t number;
  };

  std::size_t find(std::string_view word, std::uint32_t hash) const {
    std::size_t at = hash & mask_;
    while (slots_[at].number >= 0 &&
           (slots_[at].hash != hash || texts_[static_cast<std::size_t>(slots_[at].number)] != word)) {
      at = (at + 1) & mask_;
    }
    return at;
  }

  std::vector<std::string> texts_;
  std::vector<Slot> slots_;
  std::size_t mask_;
};

/// The row of each n-gram that has one: a bit a bucket, and how many are set before each 64 of them.
class KeptRows {
 public:
  explicit KeptRows(std::uint32_t buckets) : groups_(buckets / 64 + 1) {}

  void add(std::uint32_t bucket) { groups_[bucket / 64].bits |= std::uint64_t{1} << (bucket % 64); }

  /// After all were added: their number.
  std::uint32_t count() {
    std::uint32_t total = 0;
    for (Group& group : groups_) {
      group.before = total;
      total += static_cast<std::uint32_t>(std::popcount(group.bits));
    }
    return total;
  }

  /// Its place among the kept, in order of buckets; and whether it is kept.
  std::pair<std::uint32_t, bool> place(std::uint32_t bucket) const {
    const Group& group = groups_[bucket / 64];
    const std::uint64_t bit = std::uint64_t{1} << (bucket % 64);
    return {group.before + static_cast<std::uint32_t>(std::popcount(group.bits & (bit - 1))), (group.bits & bit) != 0};
  }

 private:
  struct Group {
    std::uint64_t bits = 0;
    std::uint32_t before = 0;
  };
  std::vector<Group> groups_;
};

/// hidden += row, for each row in turn. `kDim` 0: any.
template <std::size_t kDim>
void add_rows(const std::byte* matrix, std::span<const std::uint32_t> rows, float* hidden, std::size_t any_dim) {
  const std::size_t dim = kDim == 0 ? any_dim : kDim;
  for (const std::uint32_t row : rows) {
    const std::byte* const values = matrix + row * dim * sizeof(float);
    for (std::size_t i = 0; i < dim; ++i) {
      float value;
      std::memcpy(&value, values + i * sizeof(float), sizeof(float));  // in a mapped file they lie anywhere
      hidden[i] += value;
    }
  }
}

}  // namespace

struct LanguageModel::Parts {
  struct Scratch {
    std::vector<std::uint32_t> rows;
    std::string padded;
    std::vector<float> hidden;
    LabelTree::Scratch tree;
  };

  Parts(MappedFile&& mapped, model_file::Contents&& model);

  template <typename Offset>
  void predict_all(std::span<const char> data, std::span<const Offset> offsets, std::span<std::int32_t> out,
                   unsigned threads, const Poll& poll) const;
  std::int32_t predict(std::string_view text, Scratch& scratch) const;
  void add_word(std::string_view word, Scratch& scratch) const;
  void add_ngrams(Scratch& scratch) const;

  MappedFile file;
  model_file::Shape shape;
  Vocabulary vocabulary;
  Modulus modulus;
  bool pruned;
  KeptRows kept;
  std::vector<float> decoded;         // rows of words, then of n-grams in the order of `kept`; empty where
  std::span<const std::byte> matrix;  // the rows lie in the file
  LabelTree tree;
};

LanguageModel::Parts::Parts(MappedFile&& mapped, model_file::Contents&& model)
    : file(std::move(mapped)),
      shape(model.shape),
      vocabulary(model.words),
      modulus(shape.bucket),
      pruned(model.pruned),
      kept(pruned ? shape.bucket : 0),
      decoded(std::move(model.quantised_input)),
      matrix(model.dense_input),
      tree(model.label_counts, std::move(model.output), static_cast<std::size_t>(shape.dim)) {
  if (decoded.empty()) return;
  matrix = std::as_bytes(std::span(decoded));
  if (!pruned) return;
  const auto dim = static_cast<std::size_t>(shape.dim);
  const std::size_t words = static_cast<std::size_t>(shape.words) * dim;
  for (const auto& [bucket, row] : model.kept) kept.add(bucket);
  std::vector<float> sorted(decoded.begin(), decoded.begin() + static_cast<std::ptrdiff_t>(words));
  sorted.resize(words + kept.count() * dim);
  for (const auto& [bucket, row] : model.kept) {  // of a bucket that stands there twice the last counts
    std::copy_n(&decoded[words + row * dim], dim, &sorted[words + kept.place(bucket).first * dim]);
  }
  decoded = std::move(sorted);
  matrix = std::as_bytes(std::span(decoded));
}

void LanguageModel::Parts::add_ngrams(Scratch& scratch) const {
  const std::string& word = scratch.padded;
  const std::size_t size = word.size();
  const auto longest = static_cast<std::size_t>(std::max(shape.max_ngram, 0));
  std::size_t count = scratch.rows.size();
  scratch.rows.resize(count + size * longest);
  const auto words = static_cast<std::uint32_t>(shape.words);
  for (std::size_t i = 0; i < size; ++i) {
    if (continues_character(word[i])) continue;
    std::uint32_t hash = kHashBasis;
    std::size_t end = i;
    for (std::int32_t n = 1; end < size && n <= shape.max_ngram; ++n) {
      hash = hashed(hash, word[end++]);
      while (end < size && continues_character(word[end])) hash = hashed(hash, word[end++]);
      // a single < or > is no n-gram
      if (n < shape.min_ngram || (n == 1 && (i == 0 || end == size))) continue;
      const std::uint32_t bucket = modulus.of(hash);
      const auto [row, is_kept] = pruned ? kept.place(bucket) : std::pair{bucket, true};
      scratch.rows[count] = words + row;
      count += is_kept ? 1 : 0;
    }
  }
  scratch.rows.resize(count);
}

void LanguageModel::Parts::add_word(std::string_view word, Scratch& scratch) const {
  const std::int32_t number = vocabulary.number(word);
  if (number >= shape.words) return;  // a label
  if (number >= 0) {
    scratch.rows.push_back(static_cast<std::uint32_t>(number));
  } else if (word.starts_with(kLabelPrefix)) {
    return;
  }
  if (word == kEndOfSentence) return;
  scratch.padded.assign(1, '<').append(word).push_back('>');
  add_ngrams(scratch);
}

std::int32_t LanguageModel::Parts::predict(std::string_view text, Scratch& scratch) const {
  scratch.rows.clear();
  std::size_t at = 0;
  while (true) {
    while (at < text.size() && is_space(text[at])) ++at;
    const std::size_t begin = at;
    while (at < text.size() && !is_space(text[at])) ++at;
    // fastText is given lines: behind the text stands the end of the sentence, and nothing behind one counts
    const std::string_view word = at == begin ? kEndOfSentence : text.substr(begin, at - begin);
    add_word(word, scratch);
    if (word == kEndOfSentence) break;
  }
  if (scratch.rows.empty()) return -1;
  const auto dim = static_cast<std::size_t>(shape.dim);
  scratch.hidden.assign(dim, 0.0F);
  (dim == 16 ? add_rows<16> : add_rows<0>)(matrix.data(), scratch.rows, scratch.hidden.data(), dim);
  const auto scale = static_cast<float>(1.0 / static_cast<double>(scratch.rows.size()));
  for (float& value : scratch.hidden) value *= scale;
  return tree.best(scratch.hidden, scratch.tree);
}

template <typename Offset>
void LanguageModel::Parts::predict_all(std::span<const char> data, std::span<const Offset> offsets,
                                       std::span<std::int32_t> out, unsigned threads, const Poll& poll) const {
  if (offsets.size() != out.size() + 1) refuse_argument("offsets must be one more than texts");
  const auto place = [&](std::size_t i) { return static_cast<std::size_t>(offsets[i]); };
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (offsets[i] < 0 || offsets[i] > offsets[i + 1] || place(i + 1) > data.size()) {
      refuse_argument("offsets of text ", i, " point outside of data");
    }
  }
  const auto block = [&](std::size_t number) {
    Scratch scratch;
    const std::size_t last = std::min(out.size(), (number + 1) * kBlock);
    for (std::size_t i = number * kBlock; i < last; ++i) {
      out[i] = predict({data.data() + place(i), place(i + 1) - place(i)}, scratch);
    }
  };
  parallel_for((out.size() + kBlock - 1) / kBlock, threads, block, poll);
}

LanguageModel::LanguageModel(const std::string& path) {
  MappedFile file(path);
  model_file::Contents contents = model_file::read(file.bytes(), path);
  parts_ = std::make_unique<const Parts>(std::move(file), std::move(contents));
}

LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

std::int32_t LanguageModel::find_label(std::string_view name) const {
  const std::int32_t number = parts_->vocabulary.number(name);
  return number < parts_->shape.words ? -1 : number - parts_->shape.words;
}

void LanguageModel::predict(std::span<const char> data, std::span<const std::int32_t> offsets,
                            std::span<std::int32_t> out, unsigned threads, const Poll& poll) const {
  parts_->predict_all(data, offsets, out, threads, poll);
}

void LanguageModel::predict(std::span<const char> data, std::span<const std::int64_t> offsets,
                            std::span<std::int32_t> out, unsigned threads, const Poll& poll) const {
  parts_->predict_all(data, offsets, out, threads, poll);
}

}  // namespace dcfast
