// Memory of tensors, on the CPU or a GPU: shared buffers that a session recycles, and the arena of its planned values.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace ingot {

constexpr size_t kTensorAlignment = 64;

inline size_t AlignUp(size_t value, size_t alignment) { return (value + alignment - 1) / alignment * alignment; }

class BufferPool;
class Device;
class DeviceEvent;
class DeviceStream;

// The header of a buffer. On the CPU its bytes follow it.
struct alignas(kTensorAlignment) Buffer {
  std::atomic<int32_t> references{1};
  size_t capacity = 0;
  BufferPool* pool = nullptr;
  std::byte* data = nullptr;
  DeviceEvent* fence = nullptr;  // of the last work of someone else's that used the bytes
};

// Shared ownership of a buffer. The last owner's thread gives it back to its pool, which may have outlived its session.
class BufferRef {
 public:
  BufferRef() = default;
  explicit BufferRef(Buffer* adopted) : buffer_(adopted) {}
  BufferRef(const BufferRef& other) : buffer_(other.buffer_) {
    if (buffer_ != nullptr) buffer_->references.fetch_add(1, std::memory_order_relaxed);
  }
  BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef();

  explicit operator bool() const { return buffer_ != nullptr; }
  bool operator==(const BufferRef& other) const { return buffer_ == other.buffer_; }
  std::byte* data() const { return buffer_->data; }
  size_t capacity() const { return buffer_->capacity; }
  // What the pool's stream does with the memory after it was released waits for what is on this stream now.
  void Fence(void* stream) const;
  bool unique() const { return buffer_->references.load(std::memory_order_acquire) == 1; }

 private:
  Buffer* buffer_ = nullptr;
};

// Recycles buffers, so that a run whose shapes were seen before allocates nothing. It keeps at most as many free bytes
// as were in use at once. Buffers may be released on any thread and after the session is gone.
class BufferPool {
 public:
  // Gives up the session's hold of the pool; it goes when its last buffer does.
  struct Closer {
    void operator()(BufferPool* pool) const { pool->Close(); }
  };
  using Ptr = std::unique_ptr<BufferPool, Closer>;

  enum class Kind : uint8_t { kHost, kPinned, kDevice };
  static Ptr Create() { return Ptr(new BufferPool(Kind::kHost, nullptr)); }
  // Of memory on the stream's GPU, or on the CPU such that copies from and to that GPU are fast. The stream lives until
  // the pool is given up.
  static Ptr Create(Kind kind, DeviceStream& stream) { return Ptr(new BufferPool(kind, &stream)); }

  // At least `bytes` bytes, aligned to kTensorAlignment. Contents are undefined.
  BufferRef Allocate(size_t bytes);

 private:
  friend class BufferRef;
  BufferPool(Kind kind, DeviceStream* stream);
  Buffer* New(size_t capacity);
  void Free(Buffer* buffer) const;
  void Release(Buffer* buffer);
  void Close();
  void Trim(size_t keep_bytes);

  const Kind kind_;
  const Device* const device_;  // of kPinned and kDevice
  DeviceStream* stream_;        // until the pool is closed
  std::mutex mutex_;
  std::vector<Buffer*> free_;  // the one that was released last stands last
  size_t free_bytes_ = 0;
  size_t live_bytes_ = 0;
  size_t peak_bytes_ = 0;
  size_t live_count_ = 0;
  bool closed_ = false;
};

// One range of memory that grows; growing moves it and loses its contents. On the CPU it starts as zeros, and pages
// that nobody touches take no memory.
class Arena {
 public:
  // On a GPU, or on the CPU if it is nullptr.
  explicit Arena(const Device* device = nullptr) : device_(device) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void Reserve(size_t bytes);
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void Release();

  const Device* device_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ingot
