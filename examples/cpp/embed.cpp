// Runs a compiled model from C++.
//
//   ingot-run MODEL.ingot [INPUT=2,3=FILE | INPUT=2,3]...
//
// An input comes from a file of raw bytes in C order, or is zeros; one that is not mentioned is zeros with every
// symbolic extent 1. Outputs are printed.

#include <algorithm>
#include <fstream>
#include <ingot/ingot.hpp>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Input {
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

struct Argument {
  std::vector<int64_t> shape;
  std::string file;
};

// "2,3=x.bin"
Argument parse(const std::string& text) {
  Argument argument;
  const size_t split = text.find('=');
  std::istringstream shape(text.substr(0, split));
  for (std::string extent; std::getline(shape, extent, ',');) argument.shape.push_back(std::stoll(extent));
  if (split != std::string::npos) argument.file = text.substr(split + 1);
  return argument;
}

Input make_input(const ingot::TensorInfo& info, const Argument& argument) {
  Input input{argument.shape, {}};
  if (argument.shape.empty()) {
    for (const int64_t extent : info.shape) input.shape.push_back(extent < 0 ? 1 : extent);
  }
  const size_t element = (info.dtype.bits + 7u) / 8u;
  input.bytes.resize(static_cast<size_t>(ingot::element_count(input.shape)) * element);
  if (argument.file.empty()) return input;
  std::ifstream file(argument.file, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(input.bytes.data()), static_cast<std::streamsize>(input.bytes.size()))) {
    throw std::runtime_error(argument.file + " cannot be read, or is smaller than its shape");
  }
  return input;
}

template <typename T>
void print_elements(const DLTensor& tensor) {
  constexpr size_t kShown = 8;
  const auto elements = ingot::elements<const T>(tensor);
  for (size_t i = 0; i < std::min(elements.size(), kShown); ++i) std::cout << ' ' << +elements[i];
  std::cout << (elements.size() > kShown ? " ...\n" : "\n");
}

void print(std::string_view name, const DLTensor& tensor) {
  std::cout << name << " [";
  for (int32_t i = 0; i < tensor.ndim; ++i) std::cout << (i == 0 ? "" : ", ") << tensor.shape[i];
  std::cout << "]:";
  const auto is = [&](uint8_t code, uint8_t bits) { return tensor.dtype.code == code && tensor.dtype.bits == bits; };
  if (is(kDLFloat, 32)) {
    print_elements<float>(tensor);
  } else if (is(kDLInt, 64)) {
    print_elements<int64_t>(tensor);
  } else if (is(kDLBool, 8)) {
    print_elements<bool>(tensor);
  } else {
    std::cout << " (a type that this example does not print)\n";
  }
}

void run(const std::string& path, const std::map<std::string, Argument>& arguments) {
  const ingot::Model model(path);
  ingot::Session session(model);
  std::map<std::string_view, Input> inputs;  // borrowed by the session while it runs
  for (const ingot::TensorInfo& info : model.inputs()) {
    const auto found = arguments.find(std::string(info.name));
    Input& input = inputs[info.name] = make_input(info, found == arguments.end() ? Argument() : found->second);
    session.set_input(info.name, ingot::tensor(std::span(input.bytes), input.shape, info.dtype));
  }
  session.run();
  for (const ingot::TensorInfo& info : model.outputs()) print(info.name, session.output(info.name));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: ingot-run MODEL.ingot [INPUT=SHAPE[=FILE]]...\n";
    return 2;
  }
  try {
    std::map<std::string, Argument> arguments;
    for (int i = 2; i < argc; ++i) {
      const std::string text = argv[i];
      const size_t split = text.find('=');
      if (split == std::string::npos) throw std::invalid_argument(text + ": expected NAME=SHAPE or NAME=SHAPE=FILE");
      arguments[text.substr(0, split)] = parse(text.substr(split + 1));
    }
    run(argv[1], arguments);
    return 0;
  } catch (const ingot::Error& error) {
    std::cerr << ingot_status_name(error.status()) << ": " << error.what() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "ingot-run: " << error.what() << '\n';
  }
  return 1;
}
