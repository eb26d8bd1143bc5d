// Regular expressions as programs of a nondeterministic automaton (RegexOp): all of its states step along a text at
// once, so that no pattern takes more than the text's length times the program's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "cpu/strings/strings.h"

namespace ingot {

class Automaton {
 public:
  // Reads and checks a program: int64 tensors [n, 3] and [r, 2].
  Automaton(KernelContext& context, const DLTensor& program, const DLTensor& ranges);

  struct Match {
    size_t begin;
    size_t end;
  };
  // The first match of `text` that starts at byte `from` (if `anchored`) or after it, and of those the longest.
  std::optional<Match> Find(std::string_view text, size_t from, bool anchored);

 private:
  struct Instruction {
    RegexOp op;
    int64_t a;
    int64_t b;
  };
  struct Range {
    int64_t first;
    int64_t last;
  };
  struct State {
    size_t at;     // an instruction
    size_t begin;  // where the match starts that it is part of
  };

  static constexpr int64_t kNone = -1;  // the code point before the first one, and after the last

  template <typename T>
  static std::span<const T> Rows(const DLTensor& tensor);
  void Check(const Instruction& instruction) const;
  bool Contains(const Instruction& instruction, int64_t code) const;
  // Adds the states of character instructions that are reached from `start` without a code point to `next_`.
  void Enter(State start, size_t position, int64_t before, int64_t after);

  std::span<const Instruction> program_;
  std::span<const Range> ranges_;
  std::span<State> now_;
  std::span<State> next_;
  size_t next_count_ = 0;
  std::span<size_t> stack_;
  std::span<int64_t> seen_;  // the step in which an instruction was last entered
  int64_t step_ = 0;
  std::optional<Match> best_;
};

}  // namespace ingot
