// The angles of rotary embeddings, and rotated elements.
#pragma once

#include "cuda/elements.h"

namespace ingot::cuda {

struct Angles {
  Floats cosines, sines;  // no data: nothing is rotated
  int64_t batch, step;    // strides
  int32_t rotated;        // elements
  bool interleaved;
};

// The angles of tokens [batches, steps] with heads of `size`. `rotated` 0 is all.
inline Angles ReadAngles(const DLTensor* cosines, const DLTensor* sines, int64_t batches, int64_t steps, int64_t size,
                         int64_t rotated, bool interleaved, std::string_view kernel) {
  if ((cosines == nullptr) != (sines == nullptr)) FailKernel("cosines and sines are given both or neither");
  if (cosines == nullptr) return {};
  const int64_t count = rotated == 0 ? size : rotated;
  if (count < 0 || count > size || count % 2 != 0)
    FailKernel("of heads of ", size, " elements an even number can be rotated, not ", count);
  for (const DLTensor* tensor : {cosines, sines}) {
    if (tensor->ndim != 3 || (tensor->shape[0] != batches && tensor->shape[0] != 1) || tensor->shape[1] != steps ||
        tensor->shape[2] != count / 2 || tensor->shape[0] != cosines->shape[0])
      FailKernel("cosines and sines are [", batches, " or 1, ", steps, ", ", count / 2, "], not ", ShapeText(*tensor));
  }
  return {FloatsOf(*cosines, kernel, "cosines"),
          FloatsOf(*sines, kernel, "sines"),
          cosines->shape[0] == 1 ? 0 : steps * (count / 2),
          count / 2,
          static_cast<int32_t>(count),
          interleaved};
}

// Element i of the head that starts at `head`, rotated.
__device__ inline float RotatedElement(const Angles& angles, const Floats& x, int64_t head, int32_t i, int64_t batch,
                                       int64_t step) {
  const float own = LoadElement(x, head + i);
  if (angles.cosines.data == nullptr || i >= angles.rotated) return own;
  const int32_t half = angles.rotated / 2;
  const bool second = angles.interleaved ? i % 2 == 1 : i >= half;
  const int32_t pair = angles.interleaved ? i / 2 : second ? i - half : i;
  const int32_t other = angles.interleaved ? i ^ 1 : second ? i - half : i + half;
  const int64_t at = batch * angles.batch + step * angles.step + pair;
  const float cosine = LoadElement(angles.cosines, at);
  const float sine = LoadElement(angles.sines, at);
  const float partner = LoadElement(x, head + other);
  return own * cosine + (second ? partner * sine : -partner * sine);
}

}  // namespace ingot::cuda
