#include "cuda/attention_decode/decode.h"

namespace ingot::cuda::decode {

INGOT_DECODE_ELEMENT(AttentionElement::kBfloat)

}  // namespace ingot::cuda::decode
