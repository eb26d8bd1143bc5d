#include "cpu/non_max_suppression/non_max_suppression.h"

#include <algorithm>

namespace ingot {
namespace {

struct Box {
  float y1, x1, y2, x2;

  float Area() const { return (y2 - y1) * (x2 - x1); }
};

Box ReadBox(const float* b, bool center) {
  if (center) return {b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2};
  return {std::min(b[0], b[2]), std::min(b[1], b[3]), std::max(b[0], b[2]), std::max(b[1], b[3])};
}

bool Overlap(const Box& a, const Box& b, float threshold) {
  const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  if (!(height > 0 && width > 0)) return false;
  const float intersection = height * width;
  const float together = a.Area() + b.Area() - intersection;
  return together > 0 && intersection / together > threshold;
}

template <typename T>
T Scalar(KernelContext& context, size_t index, const char* name, const char* dtype, T otherwise) {
  const DLTensor* tensor = context.OptionalInput(index);
  if (tensor == nullptr) return otherwise;
  if (ElementCount(*tensor) != 1 || DTypeText(tensor->dtype) != dtype) {
    FailKernel(std::string_view(name), " is one element of ", std::string_view(dtype), ", not ", ShapeText(*tensor),
               " of ", DTypeText(tensor->dtype));
  }
  return *Data<const T>(*tensor);
}

}  // namespace

void NonMaxSuppression(KernelContext& context) {
  const DLTensor& boxes = context.Input(0);
  const DLTensor& scores = context.Input(1);
  const bool fits = boxes.ndim == 3 && scores.ndim == 3 && boxes.shape[0] == scores.shape[0] &&
                    boxes.shape[1] == scores.shape[2] && boxes.shape[2] == 4 && DTypeText(boxes.dtype) == "float32" &&
                    boxes.dtype == scores.dtype;
  if (!fits)
    FailKernel("boxes are float32 [b, n, 4] and scores float32 [b, c, n], not ", ShapeText(boxes), " and ",
               ShapeText(scores));
  const int64_t classes = scores.shape[1];
  const int64_t n = boxes.shape[1];
  const int64_t lists = boxes.shape[0] * classes;
  const int64_t most = std::clamp<int64_t>(Scalar<int64_t>(context, 2, "max_output_boxes_per_class", "int64", 0), 0, n);
  const float iou_threshold = Scalar<float>(context, 3, "iou_threshold", "float32", 0.0f);
  const bool has_threshold = context.OptionalInput(4) != nullptr;
  const float score_threshold = Scalar<float>(context, 4, "score_threshold", "float32", 0.0f);
  const bool center = context.ints()[0] != 0;
  const float* box_data = Data<const float>(boxes);
  const float* score_data = Data<const float>(scores);

  const int64_t rows = most == 0 ? 0 : lists;
  const auto candidates = context.Scratch<int64_t>(static_cast<size_t>(rows * n));
  const auto picked = context.Scratch<int64_t>(static_cast<size_t>(rows));
  context.ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t list = begin; list < end; ++list) {
      const float* score = score_data + list * n;
      const float* batch_boxes = box_data + list / classes * n * 4;
      // Candidates by score, of which those that are picked move to the front.
      int64_t* row = candidates.data() + list * n;
      int64_t count = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (has_threshold ? score[i] > score_threshold : score[i] == score[i]) row[count++] = i;
      }
      std::sort(row, row + count,
                [&](int64_t a, int64_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
      int64_t kept = 0;
      for (int64_t c = 0; c < count && kept < most; ++c) {
        const Box box = ReadBox(batch_boxes + row[c] * 4, center);
        const bool overlaps = std::any_of(row, row + kept, [&](int64_t other) {
          return Overlap(box, ReadBox(batch_boxes + other * 4, center), iou_threshold);
        });
        if (!overlaps) row[kept++] = row[c];
      }
      picked[static_cast<size_t>(list)] = kept;
    }
  });

  int64_t total = 0;
  for (const int64_t count : picked) total += count;
  const int64_t shape[] = {total, 3};
  int64_t* output = Data<int64_t>(context.AllocateOutput(0, shape));
  for (int64_t list = 0; list < rows; ++list) {
    for (int64_t i = 0; i < picked[static_cast<size_t>(list)]; ++i) {
      *output++ = list / classes;
      *output++ = list % classes;
      *output++ = candidates[static_cast<size_t>(list * n + i)];
    }
  }
}

}  // namespace ingot
