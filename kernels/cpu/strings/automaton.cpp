#include "cpu/strings/automaton.h"

#include <algorithm>
#include <utility>

#include "cpu/strings/text.h"

namespace ingot {
namespace {

bool IsWord(int64_t code) {
  return (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') || code == '_' || (code >= 'a' && code <= 'z');
}

bool Holds(int64_t assertion, int64_t before, int64_t after) {
  const bool boundary = IsWord(before) != IsWord(after);
  return assertion == 0 ? before < 0 : assertion == 1 ? after < 0 : assertion == 2 ? boundary : !boundary;
}

// The last code point of `text`, which is read backwards to where one starts.
int64_t LastCodePoint(std::string_view text) {
  constexpr size_t kMostBytes = 4;
  size_t start = text.size() - 1;
  while (start > 0 && text.size() - start < kMostBytes && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  text.remove_prefix(start);
  return TakeCodePoint(text);
}

}  // namespace

Automaton::Automaton(KernelContext& context, const DLTensor& program, const DLTensor& ranges)
    : program_(Rows<Instruction>(program)),
      ranges_(Rows<Range>(ranges)),
      now_(context.Scratch<State>(program_.size())),
      next_(context.Scratch<State>(program_.size())),
      stack_(context.Scratch<size_t>(2 * program_.size() + 1)),
      seen_(context.Scratch<int64_t>(program_.size())) {
  if (program_.empty() || program_.back().op != RegexOp::kMatch)
    FailKernel("the program of the regular expression has no end");
  for (const Instruction& instruction : program_) Check(instruction);
  std::ranges::fill(seen_, step_);
}

template <typename T>
std::span<const T> Automaton::Rows(const DLTensor& tensor) {
  CheckType(tensor, "int64");
  if (tensor.ndim != 2 || static_cast<size_t>(tensor.shape[1]) * sizeof(int64_t) != sizeof(T))
    FailKernel("no part of a regular expression's program has shape ", ShapeText(tensor));
  return {Data<const T>(tensor), static_cast<size_t>(tensor.shape[0])};
}

// Nothing else keeps a damaged program from reaching out of bounds.
void Automaton::Check(const Instruction& instruction) const {
  const auto target = [&](int64_t to) { return to >= 0 && static_cast<size_t>(to) < program_.size(); };
  const auto known = static_cast<int64_t>(ranges_.size());
  const int64_t a = instruction.a;
  const int64_t b = instruction.b;
  bool valid = false;
  switch (instruction.op) {
    case RegexOp::kMatch:
    case RegexOp::kAssert:
      valid = true;
      break;
    case RegexOp::kJump:
      valid = target(a);
      break;
    case RegexOp::kSplit:
      valid = target(a) && target(b);
      break;
    case RegexOp::kCharacter:
      valid = a >= 0 && b >= 0 && a <= known && b <= known - a;
      break;
  }
  if (!valid) FailKernel("the program of the regular expression is damaged");
}

bool Automaton::Contains(const Instruction& instruction, int64_t code) const {
  const auto ranges = ranges_.subspan(static_cast<size_t>(instruction.a), static_cast<size_t>(instruction.b));
  const auto found = std::ranges::upper_bound(ranges, code, {}, &Range::first);
  return found != ranges.begin() && code <= (found - 1)->last;
}

void Automaton::Enter(State start, size_t position, int64_t before, int64_t after) {
  size_t depth = 0;
  stack_[depth++] = start.at;
  while (depth > 0) {
    const size_t at = stack_[--depth];
    if (seen_[at] == step_) continue;  // states come in the order of their starts: the one that was here first is kept
    seen_[at] = step_;
    const Instruction& instruction = program_[at];
    switch (instruction.op) {
      case RegexOp::kMatch:
        best_ = {start.begin, position};
        break;
      case RegexOp::kJump:
        stack_[depth++] = static_cast<size_t>(instruction.a);
        break;
      case RegexOp::kSplit:
        stack_[depth++] = static_cast<size_t>(instruction.a);
        stack_[depth++] = static_cast<size_t>(instruction.b);
        break;
      case RegexOp::kCharacter:
        next_[next_count_++] = {at, start.begin};
        break;
      case RegexOp::kAssert:
        if (Holds(instruction.a, before, after)) stack_[depth++] = at + 1;
        break;
    }
  }
}

std::optional<Automaton::Match> Automaton::Find(std::string_view text, size_t from, bool anchored) {
  best_.reset();
  size_t count = 0;
  int64_t before = from == 0 ? kNone : LastCodePoint(text.substr(0, from));
  int64_t code = kNone;
  std::string_view rest = text.substr(from);
  for (size_t position = from;; position = text.size() - rest.size()) {
    // States that were reached by the code point `before`, then one that starts here.
    std::string_view ahead = rest;
    code = ahead.empty() ? kNone : int64_t{TakeCodePoint(ahead)};
    ++step_;
    next_count_ = 0;
    for (const State& state : now_.first(count)) {
      // A match that starts before this state does leaves it no chance.
      if (best_ && best_->begin < state.begin) break;
      if (Contains(program_[state.at], before)) Enter({state.at + 1, state.begin}, position, before, code);
    }
    if (!best_ && (!anchored || position == from)) Enter({0, position}, position, before, code);
    std::swap(now_, next_);
    count = next_count_;
    if (rest.empty() || (count == 0 && (best_ || anchored))) return best_;
    before = code;
    rest = ahead;
  }
}

}  // namespace ingot
