#include "cpu/nonzero/nonzero.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "types.h"

namespace ingot {
namespace {

// An element is zero if none of its bits but a sign that zero may have is set. `mask` selects those bits.
template <typename T>
T ZeroMask(const DLTensor& tensor) {
  const T all = std::numeric_limits<T>::max();
  switch (tensor.dtype.code) {
    case kDLFloat:
    case kDLBfloat:
    case kDLFloat8_e4m3fn:
    case kDLFloat8_e5m2:
      return all >> 1;
    case kDLFloat4_e2m1fn:
      return 0x7;
    case kDLComplex:  // two floats to a word
      return tensor.dtype.bits == 64 ? static_cast<T>(0x7FFFFFFF7FFFFFFF) : all >> 1;
    case kDLFloat8_e8m0fnu:
      FailKernel("float8_e8m0fnu has no zero");
    default:
      return all;
  }
}

// Chunks are counted, then written, each on its own.
constexpr int64_t kChunk = 1 << 15;

template <typename T, size_t kWords>
class Finder {
 public:
  Finder(KernelContext& context, const DLTensor& input)
      : context_(context),
        input_(input),
        words_(Data<const T>(input)),
        mask_(ZeroMask<T>(input)),
        count_(ElementCount(input)) {}

  void Run() {
    const int64_t chunks = (count_ + kChunk - 1) / kChunk;
    const auto counts = context_.Scratch<int64_t>(static_cast<size_t>(chunks));
    context_.ParallelFor(chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) counts[static_cast<size_t>(c)] = CountIn(c);
    });
    int64_t total = 0;
    for (int64_t& count : counts) total += std::exchange(count, total);
    const int64_t shape[] = {input_.ndim, total};
    int64_t* output = Data<int64_t>(context_.AllocateOutput(0, shape));
    context_.ParallelFor(chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) Write(c, output + counts[static_cast<size_t>(c)], total);
    });
  }

 private:
  bool IsNonzero(int64_t element) const {
    T bits = 0;
    for (size_t w = 0; w < kWords; ++w) bits |= words_[static_cast<size_t>(element) * kWords + w] & mask_;
    return bits != 0;
  }

  int64_t CountIn(int64_t chunk) const {
    int64_t found = 0;
    for (int64_t i = chunk * kChunk; i < std::min(count_, (chunk + 1) * kChunk); ++i) found += IsNonzero(i);
    return found;
  }

  void Write(int64_t chunk, int64_t* column, int64_t total) const {
    for (int64_t i = chunk * kChunk; i < std::min(count_, (chunk + 1) * kChunk); ++i) {
      if (!IsNonzero(i)) continue;
      int64_t rest = i;
      for (int32_t axis = input_.ndim - 1; axis >= 0; --axis) {
        column[axis * total] = rest % input_.shape[axis];
        rest /= input_.shape[axis];
      }
      ++column;
    }
  }

  KernelContext& context_;
  const DLTensor& input_;
  const T* words_;
  const T mask_;
  const int64_t count_;
};

}  // namespace

void Nonzero(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  switch (ElementBytes(input)) {
    case 1:
      return Finder<uint8_t, 1>(context, input).Run();
    case 2:
      return Finder<uint16_t, 1>(context, input).Run();
    case 4:
      return Finder<uint32_t, 1>(context, input).Run();
    case 8:
      return Finder<uint64_t, 1>(context, input).Run();
    default:
      return Finder<uint64_t, 2>(context, input).Run();
  }
}

}  // namespace ingot
