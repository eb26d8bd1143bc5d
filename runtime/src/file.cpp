#include "file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "error.h"

namespace ingot {
namespace {

std::string SystemMessage(int code) { return std::generic_category().message(code); }

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  const auto fail = [&](std::string_view reason) {
    CloseDescriptor();
    Fail(INGOT_ERROR_FILE, path_, ": ", reason);
  };
  if (descriptor_ < 0) fail(Text("cannot open the file: ", SystemMessage(errno)));
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) fail(Text("cannot read the file's size: ", SystemMessage(errno)));
  if (S_ISDIR(status.st_mode)) fail("is a directory; an artifact is one file");
  if (!S_ISREG(status.st_mode)) fail("is not a regular file, so it cannot be mapped");
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;  // an empty mapping does not exist
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (mapped == MAP_FAILED) fail(Text("cannot map the file: ", SystemMessage(errno)));
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  CloseDescriptor();
}

void MappedFile::CloseDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

}  // namespace ingot
