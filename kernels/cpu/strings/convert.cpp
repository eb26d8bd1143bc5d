// Numbers as text, and back.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"
#include "types.h"

namespace ingot {
namespace {

// Text longer than this is cut in messages.
constexpr size_t kMostShown = 60;

[[noreturn]] void FailText(std::string_view text, const DLTensor& wanted) {
  FailKernel("'", text.substr(0, kMostShown), text.size() > kMostShown ? "…" : "", "' is not text of ",
             DTypeText(wanted.dtype));
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\v\f\r";
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

bool EqualIgnoringCase(std::string_view text, std::string_view lower) {
  return std::ranges::equal(text, lower, [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a + 32 : a) == b; });
}

template <typename T>
bool Parse(std::string_view text, T& number) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range && std::is_floating_point_v<T>) {
    // from_chars leaves the number alone: too large is an infinity, too small is 0.
    const bool negative = text.starts_with('-');
    const size_t exponent = text.find_first_of("eE");
    const bool small = exponent != std::string_view::npos ? text.substr(exponent + 1).starts_with('-')
                                                          : text.substr(negative).starts_with('0');
    number = static_cast<T>(small ? 0.0 : HUGE_VAL);
    if (negative) number = static_cast<T>(-number);
    return end == text.data() + text.size();
  }
  return error == std::errc() && end == text.data() + text.size();
}

bool ParseBool(std::string_view text, uint8_t& value) {
  value = text == "1" || EqualIgnoringCase(text, "true");
  return value != 0 || text == "0" || EqualIgnoringCase(text, "false");
}

template <typename T>
size_t Write(T number, char* to, size_t room) {
  const auto put = [&](std::string_view text) {
    std::ranges::copy(text, to);
    return text.size();
  };
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(number)) return put("NaN");
    if (std::isinf(number)) return put(number < 0 ? "-INF" : "INF");
  }
  return static_cast<size_t>(std::to_chars(to, to + room, number).ptr - to);
}

}  // namespace

void StringToNumber(KernelContext& context) {
  const auto strings = Strings(context.Input(0));
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(context.Input(0)));
  if (output.dtype.code == kDLBool) {
    for (size_t i = 0; i < strings.size(); ++i) {
      if (!ParseBool(Trimmed(View(strings[i])), Data<uint8_t>(output)[i])) FailText(View(strings[i]), output);
    }
    return;
  }
  DispatchNumber("string_to_number", output, [&](auto zero) {
    using T = decltype(zero);
    for (size_t i = 0; i < strings.size(); ++i) {
      Computed<T> number{};
      if (!Parse(Trimmed(View(strings[i])), number)) FailText(View(strings[i]), output);
      Data<T>(output)[i] = static_cast<T>(number);
    }
  });
}

void NumberToString(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const auto strings = Strings(context.AllocateOutput(0, ShapeOf(input)));
  DispatchNumber("number_to_string", input, [&](auto zero) {
    using T = decltype(zero);
    for (size_t i = 0; i < strings.size(); ++i) {
      char text[32];  // the shortest form of a double has at most 24 characters
      const size_t size = Write(Widen(Data<const T>(input)[i]), text, sizeof text);
      char* kept = context.AllocateText(size);
      std::memcpy(kept, text, size);
      strings[i] = {kept, size};
    }
  });
}

}  // namespace ingot
