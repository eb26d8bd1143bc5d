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

// Whether the decimal number that `text` is, and that is not 0, lies between -1 and 1.
bool IsBelowOne(std::string_view text) {
  const size_t end = std::min(text.find_first_of("eE"), text.size());
  std::string_view power = text.substr(std::min(end + 1, text.size()));
  const bool small = power.starts_with('-');
  if (power.starts_with('+')) power.remove_prefix(1);
  int64_t exponent = 0;
  if (std::from_chars(power.data(), power.data() + power.size(), exponent).ec == std::errc::result_out_of_range)
    return small;
  const std::string_view digits = text.substr(0, end);
  const auto point = static_cast<int64_t>(std::min(digits.find('.'), digits.size()));
  const auto first = static_cast<int64_t>(digits.find_first_of("123456789"));
  return exponent + point - first < (first < point ? 1 : 0);
}

template <typename T>
bool Parse(std::string_view text, T& number) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range && std::is_floating_point_v<T>) {
    const bool negative = text.starts_with('-');
    number = static_cast<T>(IsBelowOne(text) ? 0.0 : HUGE_VAL);  // from_chars left it alone
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
