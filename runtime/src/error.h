// Errors: one exception type that carries a status of the C ABI and a sentence for a person.
#pragma once

#include <ingot/ingot.h>

#include <concepts>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace ingot {

class Error : public std::exception {
 public:
  Error(ingot_status status, std::string message) : status_(status), message_(std::move(message)) {}
  ingot_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ingot_status status_;
  std::string message_;
};

// A shape in messages: ShapeText({1, 3}) is "[1, 3]".
std::string ShapeText(std::span<const int64_t> shape);
std::string ShapeText(const DLTensor& tensor);

// How parts of messages are written. iostreams would add most of a megabyte of locale code to the library.
void AppendText(std::string& text, std::string_view part);
void AppendText(std::string& text, double part);
void AppendInteger(std::string& text, int64_t part);
void AppendUnsigned(std::string& text, uint64_t part);
template <std::integral T>
void AppendText(std::string& text, T part) {
  if constexpr (std::signed_integral<T>) {
    AppendInteger(text, part);
  } else {
    AppendUnsigned(text, part);
  }
}

template <typename... Parts>
std::string Text(const Parts&... parts) {
  std::string text;
  (AppendText(text, parts), ...);
  return text;
}

template <typename... Parts>
[[noreturn]] void Fail(ingot_status status, const Parts&... parts) {
  throw Error(status, Text(parts...));
}

// Runs `body`; an Error that leaves it gets `context` and a colon put before its message.
template <typename Body>
decltype(auto) WithContext(std::string_view context, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Error& error) {
    throw Error(error.status(), Text(context, ": ", std::string_view(error.what())));
  }
}

}  // namespace ingot
