#include "cuda/attention/attention.h"
#include "cuda/attention/general.h"
#include "cuda/attention/operands.h"
#include "cuda/attention_decode/attention_decode.h"
#include "cuda/attention_prefill/attention_prefill.h"

namespace ingot {
namespace cuda {
namespace {

// Up to so many rows (queries times the heads that share keys) the cache's bytes decide, not arithmetic: four blocks of
// 16 rows read a cache that stays in the second-level cache between them.
constexpr int64_t kMostDecodeRows = 64;

}  // namespace
}  // namespace cuda

void Attention(CudaContext& context) {
  using namespace cuda;
  const AttentionProblem problem = ReadAttention(context);
  const int64_t rows = problem.queries * problem.group;
  if (problem.batches == 0 || problem.kv_heads == 0 || rows == 0 || problem.value_size == 0) return;
  const int64_t variant = context.ints().size() > 8 ? context.ints()[8] : 0;
  if (rows > kMostDecodeRows && PrefillAttention(problem, context, variant)) return;
  if (DecodeAttention(problem, context, variant)) return;
  GeneralAttention(problem, context, variant);
}

}  // namespace ingot
