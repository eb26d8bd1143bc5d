// ONNX StringNormalizer: stopwords and case.

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "cpu/strings/case_table.h"
#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"

namespace ingot {
namespace {

enum Case : int64_t { kAsItIs = 0, kLower = 1, kUpper = 2 };

uint32_t Mapped(std::span<const CaseRange> table, uint32_t code) {
  const auto next = std::ranges::upper_bound(table, code, {}, &CaseRange::first);
  if (next == table.begin()) return code;
  const CaseRange& row = *(next - 1);
  const bool inside = code <= row.last && (code - row.first) % row.step == 0;
  return inside ? static_cast<uint32_t>(static_cast<int32_t>(code) + row.offset) : code;
}

ingot_string InCase(KernelContext& context, const ingot_string& string, int64_t wanted) {
  if (wanted == kAsItIs) return string;
  const std::span<const CaseRange> lower(kToLower);
  const std::span<const CaseRange> upper(kToUpper);
  const std::span<const CaseRange> table = wanted == kLower ? lower : upper;
  // No mapping makes two bytes three times as long, nor one byte longer than three.
  char* text = context.AllocateText(3 * string.size);
  char* end = text;
  std::string_view rest = View(string);
  while (!rest.empty()) end = PutCodePoint(Mapped(table, TakeCodePoint(rest)), end);
  return {text, static_cast<size_t>(end - text)};
}

}  // namespace

void StringNormalize(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const auto shape = ShapeOf(input);
  if (shape.size() != 1 && (shape.size() != 2 || shape[0] != 1))
    FailKernel("takes strings of shape [n] or [1, n], not ", ShapeText(input));
  const int64_t wanted = context.ints()[0];
  const bool exact = context.ints()[1] != 0;
  const auto before = [](const ingot_string& a, const ingot_string& b) { return View(a) < View(b); };
  const auto comparable = [&](const ingot_string& string) { return exact ? string : InCase(context, string, kLower); };

  std::span<ingot_string> stopwords;
  if (const DLTensor* given = context.OptionalInput(1); given != nullptr) {
    stopwords = context.Scratch<ingot_string>(Strings(*given).size());
    std::ranges::transform(Strings(*given), stopwords.begin(), comparable);
    std::ranges::sort(stopwords, before);
  }
  const auto strings = Strings(input);
  const auto kept = context.Scratch<ingot_string>(strings.size() + 1);
  size_t count = 0;
  for (const ingot_string& string : strings) {
    if (stopwords.empty() || !std::ranges::binary_search(stopwords, comparable(string), before))
      kept[count++] = InCase(context, string, wanted);
  }
  if (count == 0 && !stopwords.empty()) kept[count++] = {nullptr, 0};
  std::vector<int64_t> result(shape.begin(), shape.end());
  result.back() = static_cast<int64_t>(count);
  std::ranges::copy(kept.first(count), Strings(context.AllocateOutput(0, result)).begin());
}

}  // namespace ingot
