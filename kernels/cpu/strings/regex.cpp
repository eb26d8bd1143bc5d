// Matching and finding regular expressions.

#include <algorithm>
#include <vector>

#include "cpu/strings/automaton.h"
#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"

namespace ingot {
namespace {

int64_t CodePoints(std::string_view text) {
  int64_t count = 0;
  for (; !text.empty(); ++count) TakeCodePoint(text);
  return count;
}

enum Mode : int64_t { kMatches = 0, kBetween = 1 };
constexpr std::string_view kStart = "\x02";
constexpr std::string_view kEnd = "\x03";

class Tokenizer {
 public:
  explicit Tokenizer(KernelContext& context)
      : automaton_(context, context.Input(1), context.Input(2)),
        mode_(context.ints()[0]),
        least_(context.ints()[1]),
        mark_(context.ints()[2] != 0) {}

  // Calls body(token) for each.
  template <typename Body>
  void Split(std::string_view text, Body&& body) {
    const auto keep = [&](std::string_view token) {
      if (!token.empty() && CodePoints(token) >= least_) body(token);
    };
    if (mark_) body(kStart);
    size_t from = 0;
    size_t end = 0;  // of the last match
    while (from <= text.size()) {
      const auto match = automaton_.Find(text, from, false);
      if (!match) break;
      if (mode_ == kMatches) {
        keep(text.substr(match->begin, match->end - match->begin));
      } else if (match->end > match->begin) {
        keep(text.substr(end, match->begin - end));
        end = match->end;
      }
      from = match->end;
      if (match->end > match->begin) continue;
      std::string_view rest = text.substr(from);  // nothing matched: go on behind the next character
      if (rest.empty()) break;
      TakeCodePoint(rest);
      from = text.size() - rest.size();
    }
    if (mode_ == kBetween) keep(text.substr(end));
    if (mark_) body(kEnd);
  }

 private:
  Automaton automaton_;
  int64_t mode_;
  int64_t least_;
  bool mark_;
};

}  // namespace

void RegexFullMatch(KernelContext& context) {
  const auto strings = Strings(context.Input(0));
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(context.Input(0)));
  CheckType(output, "bool");
  Automaton automaton(context, context.Input(1), context.Input(2));
  for (size_t i = 0; i < strings.size(); ++i) {
    const auto longest = automaton.Find(View(strings[i]), 0, true);
    Data<uint8_t>(output)[i] = longest && longest->end == strings[i].size;
  }
}

void Tokenize(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const auto strings = Strings(input);
  const auto pad = Strings(context.Input(3));
  if (pad.size() != 1) FailKernel("takes one string to pad with, not ", pad.size());
  Tokenizer tokenizer(context);
  int64_t longest = 0;
  for (const ingot_string& string : strings) {
    int64_t count = 0;
    tokenizer.Split(View(string), [&](std::string_view) { ++count; });
    longest = std::max(longest, count);
  }
  std::vector<int64_t> shape(ShapeOf(input).begin(), ShapeOf(input).end());
  shape.push_back(longest);
  const auto tokens = Strings(context.AllocateOutput(0, shape));
  std::ranges::fill(tokens, pad[0]);
  for (size_t i = 0; i < strings.size(); ++i) {
    size_t next = i * static_cast<size_t>(longest);
    tokenizer.Split(View(strings[i]), [&](std::string_view token) { tokens[next++] = FromView(token); });
  }
}

}  // namespace ingot
