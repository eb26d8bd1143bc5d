#include "code_image.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "buffer.h"
#include "host_functions.h"

namespace ingot {

struct CodeImage::Layout {
  size_t text;
  size_t data;
  size_t bss;

  size_t total() const { return text + data + bss; }
  // Whether an aligned 8-byte slot at this offset lies in the initial data.
  bool HoldsSlot(size_t offset) const {
    return offset >= text && offset % sizeof(uint64_t) == 0 && data >= sizeof(uint64_t) &&
           offset - text <= data - sizeof(uint64_t);
  }
};

CodeImage::CodeImage(const Artifact& artifact, const json::Node& code) {
  const Segment& segment = artifact.segments()[artifact.SegmentIndex(code["segment"], Segment::kCode)];
  const Layout layout{code["text_size"].Size("size"), code["data_size"].Size("size"), code["bss_size"].Size("size")};
  constexpr size_t kTextAlignment = 65536;
  constexpr size_t kMostBss = size_t{1} << 40;
  if (layout.text % kTextAlignment != 0 || layout.text > segment.bytes.size() ||
      layout.data > segment.bytes.size() - layout.text || layout.bss > kMostBss) {
    code.Fail("the image (text ", layout.text, ", data ", layout.data, ", bss ", layout.bss,
              " bytes) does not fit its segment of ", segment.bytes.size());
  }
  if (layout.total() == 0) return;  // a program of kernels and views alone has no code
  Map(artifact, segment, layout);
  try {
    FillSlots(code, layout);
    ReadFunctions(code["functions"], layout);
  } catch (...) {
    ::munmap(base_, mapped_);
    throw;
  }
}

CodeImage::~CodeImage() {
  if (base_ != nullptr) ::munmap(base_, mapped_);
}

void CodeImage::Map(const Artifact& artifact, const Segment& segment, const Layout& layout) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  mapped_ = AlignUp(layout.total(), page);
  void* reserved = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) Fail(INGOT_ERROR_MEMORY, "cannot reserve ", mapped_, " bytes for code");
  base_ = static_cast<std::byte*>(reserved);
  const auto fail = [&](const char* what) {
    const int code = errno;
    ::munmap(base_, mapped_);
    base_ = nullptr;
    Fail(INGOT_ERROR_FILE, std::string_view(what), ": ", std::generic_category().message(code));
  };
  if (layout.text > 0) {
    const auto offset = static_cast<off_t>(segment.offset);
    void* text =
        ::mmap(base_, layout.text, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, artifact.descriptor(), offset);
    if (text == MAP_FAILED) {
      // A file system that is mounted noexec refuses the mapping; memory of our own may still become executable.
      if (::mprotect(base_, layout.text, PROT_READ | PROT_WRITE) != 0) fail("cannot prepare memory for code");
      std::memcpy(base_, segment.bytes.data(), layout.text);
      __builtin___clear_cache(reinterpret_cast<char*>(base_), reinterpret_cast<char*>(base_ + layout.text));
      if (::mprotect(base_, layout.text, PROT_READ | PROT_EXEC) != 0)
        fail("the system does not let code be mapped to run");
    }
  }
  if (layout.data > 0) std::memcpy(base_ + layout.text, segment.bytes.data() + layout.text, layout.data);
}

void CodeImage::FillSlots(const json::Node& code, const Layout& layout) {
  const auto store = [&](size_t offset, uint64_t value) { std::memcpy(base_ + offset, &value, sizeof value); };
  const auto slot = [&](const json::Node& node) {
    const size_t offset = node.Size("offset");
    if (!layout.HoldsSlot(offset)) node.Fail("offset ", offset, " is not a slot in the image's data");
    return offset;
  };
  code["imports"].Map([&](const json::Node& import) {
    const std::string_view name = import["name"].String();
    void* address = FindHostFunction(name);
    if (address == nullptr) {
      Fail(INGOT_ERROR_VERSION, "the artifact's code calls '", name,
           "', which this version of libingot does not provide");
    }
    store(slot(import["slot"]), reinterpret_cast<uintptr_t>(address));
    return 0;
  });
  code["relocations"].Map([&](const json::Node& relocation) {
    if (relocation.ArraySize() != 2) relocation.Fail("expected an offset and an addend");
    const size_t addend = relocation.At(1).Size("addend");
    if (addend > layout.total()) relocation.Fail("addend ", addend, " is beyond the image");
    store(slot(relocation.At(0)), reinterpret_cast<uintptr_t>(base_) + addend);
    return 0;
  });
}

void CodeImage::ReadFunctions(const json::Node& functions, const Layout& layout) {
  const size_t count = functions.MemberCount();
  functions_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t offset = functions.ValueAt(i).Size("offset");
    if (offset >= layout.text) functions.ValueAt(i).Fail("offset ", offset, " is beyond the code");
    functions_.emplace_back(functions.KeyAt(i), offset);
  }
  std::sort(functions_.begin(), functions_.end());
}

GeneratedFunction CodeImage::Find(std::string_view name) const {
  const auto found = std::lower_bound(functions_.begin(), functions_.end(), name,
                                      [](const auto& row, std::string_view n) { return row.first < n; });
  if (found == functions_.end() || found->first != name) return nullptr;
  return reinterpret_cast<GeneratedFunction>(base_ + found->second);
}

}  // namespace ingot
