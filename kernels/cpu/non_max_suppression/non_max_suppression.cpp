#include "cpu/non_max_suppression/non_max_suppression.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "ranking.h"
#include "simd/vector_portable.h"

namespace ingot {
namespace {

using Candidate = Ranked<uint64_t>;

// A fork of the threads takes 2 to 5 microseconds, in which a thread looks at about this many scores.
constexpr int64_t kForkScores = 1 << 12;
constexpr int64_t kScores = 16;    // that are compared with the threshold at once
constexpr int64_t kTogether = 16;  // boxes that one is compared with at once
constexpr int64_t kFirstSorted =
    256;  // candidates that are sorted before any is looked at; then as many more as there were

using Lanes = simd::Portable;
using Float = Lanes::Float;
using Bits = Lanes::Bits;

bool Any(Bits found) { return (found[0] | found[1] | found[2] | found[3]) != 0; }

struct Box {
  float y1, x1, y2, x2;

  float Area() const { return (y2 - y1) * (x2 - x1); }
};

Box ReadBox(const float* b, bool center) {
  if (center) return {b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2};
  return {std::min(b[0], b[2]), std::min(b[1], b[3]), std::max(b[0], b[2]), std::max(b[1], b[3])};
}

// Boxes that were picked, side by side so that several of them are compared with another one at once.
class Picked {
 public:
  static constexpr int64_t kFields = 5;

  // `memory` has kFields * capacity floats; the capacity is a multiple of kTogether.
  Picked(float* memory, int64_t capacity) : memory_(memory), capacity_(capacity) {}

  void Clear() { count_ = 0; }
  int64_t count() const { return count_; }

  void Add(const Box& box) {
    if (count_ % kTogether == 0) {  // what is not there yet overlaps nothing
      for (int64_t f = 0; f < kFields; ++f) std::fill_n(Field(f) + count_, kTogether, 0.0f);
    }
    const float fields[kFields] = {box.y1, box.x1, box.y2, box.x2, box.Area()};
    for (int64_t f = 0; f < kFields; ++f) Field(f)[count_] = fields[f];
    ++count_;
  }

  // Whether the intersection of a box with one of these, over their union, is above a threshold.
  bool Overlap(const Box& box, float threshold) const {
    const Float y1 = Lanes::Set(box.y1), x1 = Lanes::Set(box.x1), y2 = Lanes::Set(box.y2), x2 = Lanes::Set(box.x2);
    const Float area = Lanes::Set(box.Area()), limit = Lanes::Set(threshold);
    for (int64_t first = 0; first < count_; first += kTogether) {
      Bits found = {};
      for (int64_t i = first; i < first + kTogether; i += Lanes::kLanes) {
        const auto field = [&](int64_t f) { return Lanes::Load(Field(f) + i); };
        const Float height = Lanes::Min(field(2), y2) - Lanes::Max(field(0), y1);
        const Float width = Lanes::Min(field(3), x2) - Lanes::Max(field(1), x1);
        const Float intersection = height * width;
        const Float together = area + field(4) - intersection;
        found |= (height > 0) & (width > 0) & (together > 0) & (intersection / together > limit);
      }
      if (Any(found)) return true;
    }
    return false;
  }

 private:
  float* Field(int64_t field) const { return memory_ + field * capacity_; }

  float* memory_;
  int64_t capacity_;
  int64_t count_ = 0;
};

// Writes the candidates of n scores: those above the threshold, which are numbers.
int64_t FindCandidates(const float* scores, int64_t n, float threshold, bool any, uint64_t* candidates) {
  int64_t count = 0;
  const Float limit = Lanes::Set(threshold);
  const auto passes = [&](float score) { return any ? score == score : score > threshold; };
  for (int64_t first = 0; first < n; first += kScores) {
    const int64_t last = std::min(first + kScores, n);
    if (last - first == kScores && !any) {
      Bits found = {};
      for (int64_t i = 0; i < kScores; i += Lanes::kLanes) found |= Lanes::Load(scores + first + i) > limit;
      if (!Any(found)) continue;
    }
    for (int64_t i = first; i < last; ++i) {
      candidates[count] = Candidate::Of(KeyOf(scores[i]), i);
      count += passes(scores[i]) ? 1 : 0;
    }
  }
  return count;
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
  if (n >= std::numeric_limits<uint32_t>::max()) FailKernel("boxes of an image are less than 2^32 - 1, not ", n);
  const int64_t lists = boxes.shape[0] * classes;
  const int64_t most = std::clamp<int64_t>(Scalar<int64_t>(context, 2, "max_output_boxes_per_class", "int64", 0), 0, n);
  const float iou_threshold = Scalar<float>(context, 3, "iou_threshold", "float32", 0.0f);
  const bool any = context.OptionalInput(4) == nullptr;
  const float score_threshold = Scalar<float>(context, 4, "score_threshold", "float32", 0.0f);
  const bool center = context.ints()[0] != 0;
  const float* box_data = Data<const float>(boxes);
  const float* score_data = Data<const float>(scores);

  const int64_t rows = most == 0 ? 0 : lists;
  const int64_t tasks =
      std::clamp<int64_t>(rows * n / kForkScores, 1, std::max<int64_t>(std::min<int64_t>(context.threads(), rows), 1));
  const int64_t room = (most + kTogether - 1) / kTogether * kTogether;
  const auto candidates = context.Scratch<uint64_t>(static_cast<size_t>(rows * n));
  const auto memory = context.Scratch<float>(static_cast<size_t>(tasks * Picked::kFields * room));
  const auto counts = context.Scratch<int64_t>(static_cast<size_t>(rows));
  context.ParallelFor(tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      Picked picked(memory.data() + task * Picked::kFields * room, room);
      for (int64_t list = rows * task / tasks; list < rows * (task + 1) / tasks; ++list) {
        const float* own_boxes = box_data + list / classes * n * 4;
        // Candidates by score, of which those that are picked move to the front.
        uint64_t* row = candidates.data() + list * n;
        const int64_t count = FindCandidates(score_data + list * n, n, score_threshold, any, row);
        picked.Clear();
        int64_t sorted = 0;
        for (int64_t c = 0; c < count && picked.count() < most; ++c) {
          if (c == sorted) {
            sorted = std::min(count, std::max(kFirstSorted, 2 * sorted));
            std::nth_element(row + c, row + sorted - 1, row + count, std::greater<>());
            std::sort(row + c, row + sorted, std::greater<>());
          }
          const Box box = ReadBox(own_boxes + Candidate::Place(row[c]) * 4, center);
          if (picked.Overlap(box, iou_threshold)) continue;
          row[picked.count()] = row[c];
          picked.Add(box);
        }
        counts[static_cast<size_t>(list)] = picked.count();
      }
    }
  });

  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  const int64_t shape[] = {total, 3};
  int64_t* output = Data<int64_t>(context.AllocateOutput(0, shape));
  for (int64_t list = 0; list < rows; ++list) {
    for (int64_t i = 0; i < counts[static_cast<size_t>(list)]; ++i) {
      *output++ = list / classes;
      *output++ = list % classes;
      *output++ = Candidate::Place(candidates[static_cast<size_t>(list * n + i)]);
    }
  }
}

}  // namespace ingot
