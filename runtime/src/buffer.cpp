#include "buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <new>

#include "device.h"
#include "error.h"

namespace ingot {
namespace {

constexpr std::align_val_t kAlignment{kTensorAlignment};

[[noreturn]] void FailMemory(size_t bytes) { Fail(INGOT_ERROR_MEMORY, "cannot allocate ", bytes, " bytes"); }

}  // namespace

BufferRef::~BufferRef() {
  if (buffer_ != nullptr && buffer_->references.fetch_sub(1, std::memory_order_acq_rel) == 1)
    buffer_->pool->Release(buffer_);
}

void BufferRef::Fence(void* stream) const {
  if (DeviceStream::IsGone(stream)) return;
  const Device* device = buffer_->pool->device_;
  try {
    if (buffer_->fence == nullptr) buffer_->fence = new DeviceEvent(*device);
    buffer_->fence->Record(stream);
  } catch (...) {
    // The stream is gone; what was on it is waited for when memory is freed, and is done long before.
  }
}

BufferPool::BufferPool(Kind kind, DeviceStream* stream)
    : kind_(kind), device_(stream == nullptr ? nullptr : &stream->device()), stream_(stream) {}

// nullptr if memory ran out.
Buffer* BufferPool::New(size_t capacity) {
  if (kind_ == Kind::kHost) {
    void* memory = ::operator new(sizeof(Buffer) + capacity, kAlignment, std::nothrow);
    if (memory == nullptr) return nullptr;
    auto* buffer = new (memory) Buffer;
    buffer->data = reinterpret_cast<std::byte*>(buffer + 1);
    return buffer;
  }
  void* memory = kind_ == Kind::kDevice ? device_->TryAllocate(capacity) : device_->AllocateHost(capacity);
  if (memory == nullptr) return nullptr;
  auto* buffer = new Buffer;
  buffer->data = static_cast<std::byte*>(memory);
  return buffer;
}

void BufferPool::Free(Buffer* buffer) const {
  if (kind_ == Kind::kHost) {
    buffer->~Buffer();
    ::operator delete(buffer, kAlignment);
    return;
  }
  if (kind_ == Kind::kDevice) {
    device_->Free(buffer->data);
  } else {
    device_->FreeHost(buffer->data);
  }
  delete buffer->fence;
  delete buffer;
}

BufferRef BufferPool::Allocate(size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() / 2) FailMemory(bytes);
  const size_t capacity = AlignUp(std::max<size_t>(bytes, 1), kTensorAlignment);
  // A free buffer up to twice as large will do: data-dependent extents vary from run to run.
  const size_t most = 2 * capacity + 4096;
  std::lock_guard lock(mutex_);
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const size_t offered = (*it)->capacity;
    if (offered >= capacity && offered <= most && (best == free_.end() || offered <= (*best)->capacity)) best = it;
  }
  Buffer* buffer;
  if (best != free_.end()) {
    buffer = *best;
    free_.erase(best);
    free_bytes_ -= buffer->capacity;
    buffer->references.store(1, std::memory_order_relaxed);
    if (buffer->fence != nullptr) {
      buffer->fence->Wait(stream_->handle());
      delete std::exchange(buffer->fence, nullptr);
    }
  } else {
    free_.reserve(live_count_ + free_.size() + 1);  // so that Release, which cannot fail, has room
    buffer = New(capacity);
    if (buffer == nullptr && !free_.empty()) {
      Trim(0);
      buffer = New(capacity);
    }
    if (buffer == nullptr) kind_ == Kind::kDevice ? device_->FailMemory(capacity) : FailMemory(capacity);
    buffer->capacity = capacity;
    buffer->pool = this;
  }
  ++live_count_;
  live_bytes_ += buffer->capacity;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  return BufferRef(buffer);
}

void BufferPool::Release(Buffer* buffer) {
  bool last = false;
  {
    std::lock_guard lock(mutex_);
    --live_count_;
    live_bytes_ -= buffer->capacity;
    free_.push_back(buffer);
    free_bytes_ += buffer->capacity;
    Trim(closed_ ? 0 : peak_bytes_);
    last = closed_ && live_count_ == 0;
  }
  if (last) delete this;
}

void BufferPool::Close() {
  bool last = false;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    stream_ = nullptr;
    Trim(0);
    last = live_count_ == 0;
  }
  if (last) delete this;
}

void BufferPool::Trim(size_t keep_bytes) {
  size_t count = 0;
  while (free_bytes_ > keep_bytes) {
    free_bytes_ -= free_[count]->capacity;
    Free(free_[count++]);
  }
  free_.erase(free_.begin(), free_.begin() + static_cast<ptrdiff_t>(count));
}

Arena::~Arena() { Release(); }

void Arena::Release() {
  if (data_ == nullptr) return;
  if (device_ != nullptr) {
    device_->Free(data_);
  } else {
    ::munmap(data_, size_);
  }
  data_ = nullptr;
  size_ = 0;
}

void Arena::Reserve(size_t bytes) {
  if (bytes <= size_) return;
  if (bytes > std::numeric_limits<size_t>::max() / 2) FailMemory(bytes);
  bytes = AlignUp(bytes, 1 << 16);
  if (device_ != nullptr) {
    Release();  // there may not be room for both
    data_ = static_cast<std::byte*>(device_->Allocate(bytes));
    size_ = bytes;
    return;
  }
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) FailMemory(bytes);
  Release();
  data_ = static_cast<std::byte*>(mapped);
  size_ = bytes;
}

}  // namespace ingot
