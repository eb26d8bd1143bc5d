// Files of saved states (docs/format.md, "Saved states").
#pragma once

#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"

namespace ingot {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using FilePtr = std::unique_ptr<std::FILE, CloseFile>;

// Writes next to the file that it is to be, and renames it when it is whole.
class StateWriter {
 public:
  // `manifest`: of the model, whose states they are.
  StateWriter(const std::string& path, std::string_view manifest);
  ~StateWriter();
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;

  void Shape(std::span<const int64_t> shape);
  void Bytes(const void* data, size_t size);
  void Finish();

 private:
  std::string path_;
  std::string temporary_;
  FilePtr file_;
  uint32_t checksum_ = 0;
};

class StateReader {
 public:
  // Fails if the file is no file of states, or of another model's.
  StateReader(const std::string& path, std::string_view manifest);

  std::vector<int64_t> Shape();
  void Bytes(void* data, size_t size);
  // Fails if there is more, or if the checksum is not that of what was read.
  void Finish();

  template <typename... Parts>
  [[noreturn]] void Fail(const Parts&... parts) const {
    ingot::Fail(INGOT_ERROR_FILE, path_, ": ", parts...);
  }

 private:
  std::string path_;
  FilePtr file_;
  uint32_t checksum_ = 0;
};

}  // namespace ingot
