// ONNX TfIdfVectorizer: n-grams as paths in a tree whose edges are words of a vocabulary.

#include <algorithm>
#include <functional>
#include <utility>

#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"

namespace ingot {
namespace {

enum Mode : int64_t { kTf = 0, kIdf = 1, kTfIdf = 2 };
constexpr int64_t kUnknown = -1;

struct Edge {
  int64_t node;
  int64_t word;
  int64_t column;
};

// The place of each element in the vocabulary.
template <typename T, typename Key>
void FindWords(std::span<const T> elements, std::span<const T> vocabulary, std::span<int64_t> words, Key key) {
  for (size_t i = 0; i < elements.size(); ++i) {
    const auto found = std::ranges::lower_bound(vocabulary, key(elements[i]), {}, key);
    const bool known = found != vocabulary.end() && key(*found) == key(elements[i]);
    words[i] = known ? found - vocabulary.begin() : kUnknown;
  }
}

void FindWords(const DLTensor& input, const DLTensor& vocabulary, std::span<int64_t> words) {
  if (!(input.dtype == vocabulary.dtype))
    FailKernel("the words are ", DTypeText(input.dtype), ", the vocabulary ", DTypeText(vocabulary.dtype));
  const auto integers = [](const DLTensor& tensor) {
    CheckType(tensor, "int64");
    return std::span(Data<const int64_t>(tensor), static_cast<size_t>(ElementCount(tensor)));
  };
  if (input.dtype.code == INGOT_STRING_CODE) {
    FindWords<ingot_string>(Strings(input), Strings(vocabulary), words, View);
  } else {
    FindWords<int64_t>(integers(input), integers(vocabulary), words, std::identity());
  }
}

struct Grams {
  std::span<const Edge> edges;
  int64_t least;
  int64_t most;
  int64_t most_skipped;

  const Edge* Find(int64_t node, int64_t word) const {
    const auto before = [](const Edge& edge, const std::pair<int64_t, int64_t>& key) {
      return std::pair(edge.node, edge.word) < key;
    };
    const auto found = std::lower_bound(edges.begin(), edges.end(), std::pair(node, word), before);
    return found != edges.end() && found->node == node && found->word == word ? &*found : nullptr;
  }

  // Counts the n-grams of a row. N-grams of one word are the same whatever is skipped: they are counted once.
  void Count(std::span<const int64_t> words, std::span<float> counts) const {
    const auto size = static_cast<int64_t>(words.size());
    int64_t shortest = least;
    for (int64_t distance = 1; distance <= most_skipped + 1 && shortest <= most; ++distance) {
      for (int64_t start = 0; start < size; ++start) {
        // Past this, no n-gram fits.
        if (shortest > 1 && distance > (size - 1 - start) / (shortest - 1)) break;
        Follow(words, start, distance, shortest, counts);
      }
      if (shortest == 1) shortest = 2;
    }
  }

  void Follow(std::span<const int64_t> words, int64_t start, int64_t distance, int64_t shortest,
              std::span<float> counts) const {
    int64_t node = 0;
    int64_t at = start;
    for (int64_t length = 1; length <= most; ++length) {
      const int64_t word = words[static_cast<size_t>(at)];
      const Edge* edge = word == kUnknown ? nullptr : Find(node, word);
      if (edge == nullptr) return;
      if (length >= shortest && edge->column >= 0) {
        if (static_cast<size_t>(edge->column) >= counts.size())
          FailKernel("an n-gram has column ", edge->column, " of ", counts.size());
        counts[static_cast<size_t>(edge->column)] += 1;
      }
      node = edge - edges.data() + 1;
      if (distance > static_cast<int64_t>(words.size()) - 1 - at) return;
      at += distance;
    }
  }
};

}  // namespace

void TfIdf(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& edges = context.Input(2);
  const DLTensor& output = context.Output(0);
  const DLTensor* weights = context.OptionalInput(3);
  CheckType(edges, "int64");
  CheckType(output, "float32");
  if (edges.ndim != 2 || edges.shape[1] != 3) FailKernel("edges have shape [e, 3], not ", ShapeText(edges));
  const bool batched = input.ndim == 2;
  if (input.ndim != 1 && !batched) FailKernel("takes words of shape [n] or [b, n], not ", ShapeText(input));
  const int64_t rows = batched ? input.shape[0] : 1;
  const int64_t length = input.shape[input.ndim - 1];
  if (output.ndim != input.ndim || (batched && output.shape[0] != rows))
    FailKernel("words ", ShapeText(input), " do not give ", ShapeText(output));
  const auto columns = static_cast<size_t>(output.shape[output.ndim - 1]);
  if (weights != nullptr) {
    CheckType(*weights, "float32");
    if (static_cast<size_t>(ElementCount(*weights)) != columns)
      FailKernel("there are ", ElementCount(*weights), " weights for ", columns, " columns");
  }
  const auto words = context.Scratch<int64_t>(static_cast<size_t>(rows * length));
  FindWords(input, context.Input(1), words);
  const int64_t mode = context.ints()[0];
  const Grams grams{{Data<const Edge>(edges), static_cast<size_t>(edges.shape[0])},
                    context.ints()[1],
                    context.ints()[2],
                    context.ints()[3]};
  context.ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const std::span counts(Data<float>(output) + static_cast<size_t>(row) * columns, columns);
      std::ranges::fill(counts, 0.0F);
      grams.Count(words.subspan(static_cast<size_t>(row * length), static_cast<size_t>(length)), counts);
      for (size_t c = 0; mode != kTf && c < columns; ++c) {
        if (mode == kIdf) counts[c] = counts[c] > 0 ? 1.0F : 0.0F;
        if (weights != nullptr) counts[c] *= Data<const float>(*weights)[c];
      }
    }
  });
}

}  // namespace ingot
